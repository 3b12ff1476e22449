//! The log of the control path: where it goes, what is written, how.
//!
//! A subscriber is installed once in a process and its filter may change while it runs. The data
//! path does not log; it counts (see `metrics`).

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogSettings};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened for appending.
    #[error("log.file: cannot append to {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The filter is none.
    #[error("log.level: `{filter}` is no filter: {source}")]
    Filter {
        /// As written.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else's subscriber is installed in this process.
    #[error("the process logs already")]
    Installed(#[from] TryInitError),
    /// [`init`] was called before.
    #[error("the log is set up already")]
    InstalledTwice,
    /// The subscriber is gone.
    #[error("the filter of the log cannot be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// The log of this process, once it is installed.
static LOG: OnceLock<Log> = OnceLock::new();

/// What can be changed in an installed log.
struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    file: Option<Arc<LogFile>>,
}

/// Installs the log of the process. Once; daemons inside other programs may do without.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let file = settings.file.as_deref().map(LogFile::open).transpose()?.map(Arc::new);
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let events = match &file {
        Some(file) => layer(settings.format, Arc::clone(file), Colour::Never),
        None if io::stderr().is_terminal() => layer(settings.format, io::stderr, Colour::Terminal),
        None => layer(settings.format, io::stderr, Colour::Never),
    };
    tracing_subscriber::registry().with(filter).with(events).try_init()?;
    LOG.set(Log { filter: handle, file }).map_err(|_| LogError::InstalledTwice)
}

/// Changes what is logged. A bad filter leaves the old in force; without a log: nothing.
pub fn set_level(level: &str) -> Result<(), LogError> {
    match LOG.get() {
        Some(log) => Ok(log.filter.reload(filter(level)?)?),
        None => Ok(()),
    }
}

/// Opens the log file again under its name, after a rotation moved it. Without a file: nothing.
pub fn reopen() -> Result<(), LogError> {
    match LOG.get().and_then(|log| log.file.as_ref()) {
        Some(file) => file.reopen(),
        None => Ok(()),
    }
}

/// Whether text is coloured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Terminal,
    Never,
}

fn layer<S, W>(format: LogFormat, writer: W, colour: Colour) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => {
            Box::new(fmt::layer().with_writer(writer).with_ansi(colour == Colour::Terminal))
        }
        LogFormat::Json => {
            Box::new(fmt::layer().json().flatten_event(true).with_ansi(false).with_writer(writer))
        }
    }
}

/// The filter of a level: a bare one speaks of TenderFS only, for its libraries at `debug` drown
/// everything; a longer one is taken as it is.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let text = match level {
        "info" | "debug" | "trace" => format!("warn,tenderfs={level}"),
        other => other.to_owned(),
    };
    EnvFilter::try_new(text).map_err(|source| LogError::Filter { filter: level.to_owned(), source })
}

/// A file that is appended to and can be opened anew.
struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, LogError> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(append_to(path)?) })
    }

    fn reopen(&self) -> Result<(), LogError> {
        let file = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

fn append_to(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| LogError::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(format: LogFormat, level: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = Arc::new(LogFile::open(&path).unwrap());
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(layer(
            format,
            file,
            Colour::Never,
        ));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(mount = "data", "mounted");
            tracing::debug!("detail");
            tracing::info!(target: "hyper", "library");
        });
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn text_has_one_line_an_event() {
        let text = logged(LogFormat::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("mounted") && text.contains("mount=\"data\""), "{text}");
    }

    #[test]
    fn json_has_one_object_an_event_with_its_facts_as_fields() {
        let text = logged(LogFormat::Json, "info");
        let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&event["message"], &event["mount"]), (&"mounted".into(), &"data".into()));
        assert_eq!(event["level"], "INFO");
    }

    #[test]
    fn a_bare_level_speaks_of_tenderfs_and_a_filter_of_what_it_says() {
        assert_eq!(logged(LogFormat::Text, "debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Text, "trace,hyper=info").lines().count(), 3);
        assert_eq!(logged(LogFormat::Text, "off"), "");
        assert!(filter("tenderfs=loud").is_err());
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogFile::open(&path).unwrap();
        (&file).write_all(b"old\n").unwrap();
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        file.reopen().unwrap();
        (&file).write_all(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        assert!(matches!(LogFile::open(&dir.path().join("no/log")), Err(LogError::Open { .. })));
    }
}
