// Rotates the points of a scatter_3d: drag with a pointer or use the arrow keys. Print shows the picture below, as it was drawn.
"use strict";
for (const data of document.querySelectorAll(".plot svg metadata")) {
  const svg = data.closest("svg");
  const plot = svg.parentNode;
  const scene = JSON.parse(data.textContent);
  const [width, height] = scene.size;
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The same points; drag or use the arrow keys to rotate them.");
  canvas.className = "rotate";
  const hint = document.createElement("p");
  hint.className = "note rotate-hint";
  hint.textContent = "Drag or use the arrow keys to rotate; double-click to reset the view.";
  plot.style.position = "relative";
  plot.append(canvas);
  plot.after(hint);
  let [azimuth, elevation] = scene.view;
  let rotated = false;

  const corners = [0, 1, 2, 3, 4, 5, 6, 7];
  const boxes = scene.panels.map((panel) => {
    const low = [Infinity, Infinity, Infinity];
    const high = [-Infinity, -Infinity, -Infinity];
    const see = (point) => point.forEach((x, k) => {
      low[k] = Math.min(low[k], x);
      high[k] = Math.max(high[k], x);
    });
    panel.points.forEach((point) => see(point.slice(0, 3)));
    panel.links.forEach((link) => { see(link.slice(0, 3)); see(link.slice(3)); });
    const room = Math.max(...high.map((x, k) => x - low[k])) * 0.03 || 1;
    return [low.map((x) => x - room), high.map((x) => x + room)];
  });

  function draw() {
    const place = svg.getBoundingClientRect();
    const around = plot.getBoundingClientRect();
    const sharp = window.devicePixelRatio || 1;
    canvas.style.left = `${place.left - around.left + plot.scrollLeft}px`;
    canvas.style.top = `${place.top - around.top + plot.scrollTop}px`;
    canvas.style.width = `${place.width}px`;
    canvas.style.height = `${place.height}px`;
    canvas.width = place.width * sharp;
    canvas.height = place.height * sharp;
    if (!rotated) return;
    const pen = canvas.getContext("2d");
    const zoom = (place.width / width) * sharp;
    pen.scale(zoom, zoom);
    const [a, e] = [azimuth, elevation].map((degrees) => (degrees * Math.PI) / 180);
    const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
    const flat = ([x, y, z]) => [ca * y - sa * x, ce * z - se * (ca * x + sa * y)];
    const depth = ([x, y, z]) => ce * (ca * x + sa * y) + se * z;
    scene.panels.forEach((panel, index) => {
      const [left, top, w, h] = panel.rect;
      const [low, high] = boxes[index];
      const corner = (i) => [0, 1, 2].map((k) => ((i >> k) & 1 ? high[k] : low[k]));
      // as large as the box is from its widest side, so that its size does not change while it rotates
      const radius = Math.hypot(...high.map((x, k) => x - low[k])) / 2;
      const middle = flat(high.map((x, k) => (x + low[k]) / 2));
      const scale = (Math.min(w, h) / 2 - 14) / radius;
      const at = (point) => {
        const [x, y] = flat(point);
        return [left + w / 2 + (x - middle[0]) * scale, top + h / 2 - (y - middle[1]) * scale];
      };
      const line = (from, to) => {
        pen.beginPath();
        pen.moveTo(...at(from));
        pen.lineTo(...at(to));
        pen.stroke();
      };
      pen.fillStyle = "#fff";
      pen.fillRect(left - 2, top - 2, w + 4, h + 4);
      const nearest = corners.reduce((best, i) => (depth(corner(i)) > depth(corner(best)) ? i : best), 0);
      pen.strokeStyle = "#b4b4b4";
      pen.lineWidth = 1;
      for (const i of corners) {
        for (const k of [0, 1, 2]) {
          const j = i | (1 << k);
          if (i !== j && i !== nearest && j !== nearest) line(corner(i), corner(j));
        }
      }
      const points = panel.points.map((point) => [depth(point), point]).sort((p, q) => p[0] - q[0]);
      pen.globalAlpha = 0.8;
      for (const [, point] of points) {
        pen.fillStyle = scene.colours[point[3]];
        pen.beginPath();
        pen.arc(...at(point), points.length > 150 ? 2.1 : 3.2, 0, 7);
        pen.fill();
      }
      pen.globalAlpha = 1;
      pen.strokeStyle = "#222";
      pen.lineWidth = 1.3;
      panel.links.forEach((link) => line(link.slice(0, 3), link.slice(3)));
      pen.fillStyle = "#222";
      pen.font = "11px DejaVu Sans, Verdana, sans-serif";
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      scene.axes.forEach((name, k) => {
        const end = corner(1 << k);
        const [x, y] = at(end);
        pen.fillText(name, Math.min(Math.max(x, left + 14), left + w - 14), Math.min(Math.max(y, top + 6), top + h - 6));
      });
    });
  }

  function rotate(right, up) {
    rotated = true;
    azimuth -= right;
    elevation = Math.max(-90, Math.min(90, elevation + up));
    draw();
  }
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    from = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    rotate((event.clientX - from[0]) * 0.5, (event.clientY - from[1]) * 0.5);
    from = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
  canvas.addEventListener("dblclick", () => {
    [azimuth, elevation] = scene.view;
    rotated = false;
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, -6], ArrowDown: [0, 6] }[event.key];
    if (!step) return;
    event.preventDefault();
    rotate(...step);
  });
  window.addEventListener("resize", draw);
  draw();
}
