//! The picture part of one run folder: SVG, PNG, `report.md`, and what current words and thresholds make of old numbers.

use std::path::{Path, PathBuf};

use config::{Envelope, Figure, MANIFEST};
use tables::Table;

use crate::{
    draw,
    error::Error,
    report::report,
    run::{Run, read_manifest},
};

/// Draws the figures of a run folder and writes its report; gives what a user should be told.
///
/// With a resolved configuration, its titles, claims, published numbers and figures take the place of those that
/// the run started with: `claims.csv`, `published.csv` and the manifest's words follow, the numbers stay.
/// Overlay files are looked for in `configs`.
/// `partial` leaves out figures whose rows are not there, and accepts a folder without a manifest, whose run is still
/// going; rehearsals are treated as leniently.
///
/// # Errors
/// When the configuration moves numbers, so that the run must be repeated; when a figure cannot be drawn
/// (the others are, first); or when a file cannot be read or written.
pub fn experiment(
    folder: &Path,
    config: Option<Envelope>,
    configs: Option<&Path>,
    partial: bool,
) -> Result<Vec<String>, Error> {
    let run = match (config, folder.join(MANIFEST).exists()) {
        (Some(config), true) => {
            refresh(folder, &config)?;
            Run::open(folder)?
        }
        (Some(config), false) if partial => Run::partial(folder, config)?,
        (None, false) if partial => {
            let what = "a run that is still going is drawn with its resolved configuration (--config)".into();
            return Err(Error::Run { folder: folder.into(), what });
        }
        _ => Run::open(folder)?,
    };
    let lenient = partial || run.is_rehearsal() || run.manifest.is_none();
    let (mut drawn, mut told, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for figure in &run.config.body.figures {
        let mut figure = figure.clone();
        if run.is_rehearsal() {
            figure.title = format!("REHEARSAL, numbers mean nothing: {}", figure.title);
        }
        match picture(&run, &figure, configs, lenient) {
            Ok(notes) => drawn.push((figure, notes)),
            Err(e @ Error::Empty { .. }) if lenient => told.push(format!("not drawn: {e}")),
            Err(Error::FigureTable { source, .. })
                if run.manifest.is_none() && matches!(*source, tables::Error::NoTable { .. }) =>
            {
                told.push(format!("not drawn yet: figure `{}`", figure.id));
            }
            Err(e) => failed.push(e.to_string()),
        }
    }
    clear(folder, &run.config.body.figures)?;
    storage::write_atomic(&folder.join("report.md"), report(&run, &drawn)?.as_bytes())?;
    if failed.is_empty() {
        return Ok(told);
    }
    Err(Error::Run { folder: folder.into(), what: failed.join("\n") })
}

/// Draws one figure and writes both files.
fn picture(run: &Run, figure: &Figure, configs: Option<&Path>, lenient: bool) -> Result<Vec<String>, Error> {
    let about = |source| Error::FigureTable { figure: figure.id.clone(), source: Box::new(source) };
    let read = || match figure.table_file() {
        Some(_) => Table::read(&run.folder, &figure.table),
        None => Table::read_csv(&configs.unwrap_or(&run.folder).join(&figure.table)),
    };
    let table = match read() {
        Err(tables::Error::Storage(e)) if e.is_not_found() && run.manifest.is_none() => {
            let nothing = tables::Error::NoTable {
                folder: run.folder.clone(),
                table: figure.table.clone(),
                nearest: None,
                tables: Vec::new(),
            };
            return Err(about(nothing));
        }
        table => table.map_err(about)?,
    };
    let overlay = match &figure.overlay {
        Some(overlay) => {
            let path = configs.unwrap_or(&run.folder).join(&overlay.file);
            if configs.is_none() && !path.exists() {
                let what =
                    format!("its overlay `{}` needs the folder of the configuration (--configs-dir)", overlay.file);
                return Err(Error::Figure { figure: figure.id.clone(), what });
            }
            Some(Table::read_csv(&path).map_err(about)?)
        }
        None => None,
    };
    let links = figure.links.as_ref().map(|table| Table::read(&run.folder, table)).transpose().map_err(about)?;
    let picture = draw(figure, &table, overlay.as_ref(), links.as_ref(), !lenient)?;
    storage::write_atomic(&run.folder.join(format!("{}.svg", figure.id)), picture.svg.as_bytes())?;
    storage::write_atomic(&run.folder.join(format!("{}.png", figure.id)), &picture.png)?;
    Ok(picture.notes)
}

/// Pictures of figures that the list no longer has would look current: they go.
fn clear(folder: &Path, figures: &[Figure]) -> Result<(), Error> {
    let fail = |source| Error::Folder { folder: folder.into(), source };
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path: PathBuf = entry.map_err(fail)?.path();
        let picture = path.extension().is_some_and(|e| e == "svg" || e == "png");
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if picture && figures.iter().all(|f| f.id != stem) && path.is_file() {
            std::fs::remove_file(&path).map_err(fail)?;
        }
    }
    Ok(())
}

/// Brings claims, published numbers and the manifest's configuration up to date.
fn refresh(folder: &Path, config: &Envelope) -> Result<(), Error> {
    let mut manifest = read_manifest(folder)?;
    if manifest.config.identity() != config.identity() {
        let what = "its numbers come from another configuration than the one given: run it again".into();
        return Err(Error::Run { folder: folder.into(), what });
    }
    let (old, new) = (&manifest.config.body, &config.body);
    let same = (&old.claims, &old.claims_asked, &old.published) == (&new.claims, &new.claims_asked, &new.published);
    let evaluated = manifest.outputs.contains_key("claims.csv");
    if manifest.config.picture_identity() == config.picture_identity() && evaluated {
        return Ok(());
    }
    manifest.config = config.clone();
    if !same || !evaluated {
        tables::evaluate(folder, &mut manifest)?;
        return Ok(());
    }
    let yaml = config::yaml::to_string(&manifest)?;
    storage::write_atomic(&folder.join(MANIFEST), yaml.as_bytes())?;
    Ok(())
}
