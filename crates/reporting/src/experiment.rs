//! The pictures and the report of one run folder, under the claims and published numbers of the current configuration.

use std::path::{Path, PathBuf};

use config::{Envelope, Figure, MANIFEST};
use tables::Table;

use crate::{
    error::Error,
    report::report,
    run::{Run, read_manifest},
};

/// How a run folder is drawn.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Resolved configuration whose titles, claims, published numbers and figures replace those of the run.
    pub config: Option<Envelope>,
    /// Folder of the configuration file, where overlays and published tables are looked for.
    pub configs: Option<PathBuf>,
    /// Leave out figures whose rows are missing, and accept a folder without a manifest, whose run is still going.
    ///
    /// Rehearsals are always treated like this.
    pub partial: bool,
    /// Also write every picture as a PNG file.
    pub png: bool,
}

/// Draws the figures of a run folder and writes its report; returns messages for the user.
///
/// With a configuration in the options, `claims.csv`, `published.csv` and the manifest's texts follow it, and the
/// measured numbers stay.
///
/// # Errors
/// When the configuration changes what is measured, so that the run must be repeated; when a figure cannot be drawn
/// (after the others have been); or when a file cannot be read or written.
pub fn experiment(folder: &Path, options: &Options) -> Result<Vec<String>, Error> {
    let run = open(folder, options)?;
    let lenient = options.partial || run.is_rehearsal() || run.manifest.is_none();
    let (mut drawn, mut messages, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for figure in &run.config.body.figures {
        let mut figure = figure.clone();
        if run.is_rehearsal() {
            figure.title = format!("REHEARSAL, numbers mean nothing: {}", figure.title);
        }
        match picture(&run, &figure, options, lenient) {
            Ok(notes) => drawn.push((figure, notes)),
            Err(Error::Figure(e @ figures::Error::Empty { .. })) if lenient => messages.push(format!("not drawn: {e}")),
            Err(Error::Figure(figures::Error::Table { source, .. }))
                if run.manifest.is_none() && matches!(*source, tables::Error::NoTable { .. }) =>
            {
                messages.push(format!("not drawn yet: figure `{}`", figure.id));
            }
            Err(e) => failed.push(e.to_string()),
        }
    }
    remove_stale(folder, &run.config.body.figures, options.png)?;
    storage::write_atomic(&folder.join("report.md"), report(&run, &drawn)?.as_bytes())?;
    if failed.is_empty() {
        return Ok(messages);
    }
    Err(Error::Run { folder: folder.into(), problem: failed.join("\n") })
}

fn open(folder: &Path, options: &Options) -> Result<Run, Error> {
    match (&options.config, folder.join(MANIFEST).exists()) {
        (Some(config), true) => {
            refresh(folder, config)?;
            Run::open(folder)
        }
        (Some(config), false) if options.partial => Run::partial(folder, config.clone()),
        (None, false) if options.partial => {
            let problem = "drawing a run that is still going needs its resolved configuration (--config)".into();
            Err(Error::Run { folder: folder.into(), problem })
        }
        (None, true) | (_, false) => Run::open(folder),
    }
}

/// Draws one figure and writes its files; returns its notes.
fn picture(run: &Run, figure: &Figure, options: &Options, lenient: bool) -> Result<Vec<String>, Error> {
    let failed = |source| figures::Error::Table { figure: figure.id.clone(), source: Box::new(source) };
    let configs = options.configs.as_deref().unwrap_or(&run.folder);
    let table = own_table(run, figure, configs).map_err(failed)?;
    let overlay = match &figure.overlay {
        Some(overlay) => {
            let path = configs.join(&overlay.file);
            if options.configs.is_none() && !path.exists() {
                let problem =
                    format!("its overlay `{}` needs the folder of the configuration (--configs-dir)", overlay.file);
                return Err(figures::Error::Figure { figure: figure.id.clone(), problem }.into());
            }
            Some(Table::read_csv(&path).map_err(failed)?)
        }
        None => None,
    };
    let links = figure.links.as_ref().map(|table| Table::read(&run.folder, table)).transpose().map_err(failed)?;
    let tables = figures::Tables { table: &table, overlay: overlay.as_ref(), links: links.as_ref() };
    let picture = figures::draw(figure, tables, !lenient)?;
    let path = |ending: &str| run.folder.join(format!("{}.{ending}", figure.id));
    storage::write_atomic(&path("svg"), picture.svg()?.as_bytes())?;
    if options.png {
        storage::write_atomic(&path("png"), &picture.png()?)?;
    }
    Ok(picture.notes().to_vec())
}

/// The table of a figure, from the run folder or from beside the configuration.
fn own_table(run: &Run, figure: &Figure, configs: &Path) -> Result<Table, tables::Error> {
    let table = match figure.table_file() {
        Some(_) => Table::read(&run.folder, &figure.table),
        None => Table::read_csv(&configs.join(&figure.table)),
    };
    match table {
        // a run that is still going may not have written any table
        Err(tables::Error::Storage(e)) if e.is_not_found() && run.manifest.is_none() => Err(tables::Error::NoTable {
            folder: run.folder.clone(),
            table: figure.table.clone(),
            nearest: None,
            tables: Vec::new(),
        }),
        table => table,
    }
}

/// Removes pictures that would look current: those of figures that are no longer configured, and PNG files of an
/// earlier drawing.
fn remove_stale(folder: &Path, figures: &[Figure], png: bool) -> Result<(), Error> {
    let fail = |source| Error::Folder { folder: folder.into(), source };
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path: PathBuf = entry.map_err(fail)?.path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let current = figures.iter().any(|f| f.id == stem);
        let stale = match path.extension().and_then(|e| e.to_str()) {
            Some("svg") => !current,
            Some("png") => !(current && png),
            _ => false,
        };
        if stale && path.is_file() {
            std::fs::remove_file(&path).map_err(fail)?;
        }
    }
    Ok(())
}

/// Brings claims, published numbers and the texts of the manifest up to date.
fn refresh(folder: &Path, config: &Envelope) -> Result<(), Error> {
    let mut manifest = read_manifest(folder)?;
    if manifest.config.identity() != config.identity() {
        let problem = "its numbers come from another configuration than the one given: run it again".into();
        return Err(Error::Run { folder: folder.into(), problem });
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
