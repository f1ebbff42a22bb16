// Runs in the wrapper page: inspects the page in the frame and writes a verdict as JSON.
// It opens all <details> elements first, so that their content is checked too.
const frame = document.getElementById("page");
const name = (element) =>
  element.tagName.toLowerCase() + (element.id ? "#" + element.id : "") +
  (typeof element.className === "string" && element.className ? "." + element.className.trim().split(/\s+/).join(".") : "");
function scrolls(element) {
  for (let at = element; at; at = at.parentElement) {
    const overflow = frame.contentWindow.getComputedStyle(at).overflowX;
    if (at !== at.ownerDocument.body && (overflow === "auto" || overflow === "scroll" || overflow === "hidden")) return true;
  }
  return false;
}
function inspect() {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach((part) => { part.open = true; });
  const root = page.documentElement;
  const wide = root.scrollWidth > root.clientWidth
    ? [...page.body.querySelectorAll("*")]
        .filter((element) => element.getBoundingClientRect().right > root.clientWidth + 0.5 && !scrolls(element))
        .slice(0, 5).map(name)
    : [];
  const board = page.querySelector("#scoreboard, [data-scoreboard]");
  const experiments = [...page.querySelectorAll('[data-experiment], section[id^="run-"]')].map((section) => ({
    id: section.dataset.experiment || section.id,
    figures: section.querySelectorAll("figure svg, figure img").length,
  }));
  const outside = [...page.querySelectorAll("[src], link[href], use[href], image[href]")]
    .map((element) => element.getAttribute("src") || element.getAttribute("href"))
    .filter((address) => address && !address.startsWith("data:") && !address.startsWith("#"));
  const loaded = frame.contentWindow.performance.getEntriesByType("resource")
    .map((entry) => entry.name).filter((address) => !address.startsWith("data:"));
  const broken = [...page.querySelectorAll("figure svg, img")]
    .filter((picture) => picture.tagName === "IMG" ? picture.naturalWidth === 0 : picture.getBoundingClientRect().width < 10)
    .map((picture) => picture.getAttribute("alt") || name(picture));
  return {
    client_width: root.clientWidth, scroll_width: root.scrollWidth, wide,
    scoreboard: board ? board.querySelectorAll("tbody tr, li").length : null,
    experiments, fetched: [...new Set([...outside, ...loaded])].slice(0, 10), broken: broken.slice(0, 10),
  };
}
function report(verdict) {
  if (document.getElementById("verdict")) return;
  const output = document.createElement("pre");
  output.id = "verdict";
  const escape = (letter) => "\\u00" + letter.charCodeAt(0).toString(16).padStart(2, "0");
  output.textContent = JSON.stringify(verdict).replace(/[<>&]/g, escape);
  frame.remove();
  document.body.append(output);
}
frame.addEventListener("load", () => setTimeout(() => {
  try { report(inspect()); } catch (error) { report({ error: String(error) }); }
}, 300));
