//! Settings: cache folder, endpoint, token and timeouts, from the environment variables of Python's `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// An access token of the hub. Its `Debug` output hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from its text; `None` if the text is blank.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// The settings of a [`Hub`](crate::Hub).
///
/// ```
/// use hub::Settings;
///
/// let variables = |name: &str| match name {
///     "HF_HOME" => Some("/data/hf".into()),
///     "HF_HUB_OFFLINE" => Some("1".into()),
///     _ => None,
/// };
/// let settings = Settings::from_variables(&variables)?;
/// assert_eq!(settings.cache, std::path::Path::new("/data/hf/hub"));
/// assert!(settings.offline && settings.token.is_none());
/// # Ok::<(), hub::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cache folder, which has one folder per repository.
    pub cache: PathBuf,
    /// The URL of the hub, without a slash at the end.
    pub endpoint: String,
    /// The access token; sent only to the host of the endpoint.
    pub token: Option<Token>,
    /// Whether to use the cache only and open no socket.
    pub offline: bool,
    /// Whether to use `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment.
    pub proxy: bool,
    /// Timeout for resolving a host, and for connecting to it.
    pub connect_timeout: Duration,
    /// Timeout for a connection without data.
    pub stall_timeout: Duration,
    /// The pause before the second try; it doubles with every further try.
    pub first_pause: Duration,
}

impl Settings {
    /// The public hub at huggingface.co, without a token, and a cache folder.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
            proxy: true,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            first_pause: Duration::from_secs(1),
        }
    }

    /// The settings of the environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, and their older names that Python still reads.
    ///
    /// # Errors
    /// When there is neither `HF_HOME` nor a home folder, the token file cannot be read, or a value is not UTF-8.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// As [`Settings::from_env`], but from any source of variables.
    ///
    /// # Errors
    /// As for [`Settings::from_env`].
    pub fn from_variables(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let variables = Variables(lookup);
        let home = variables.hub_home();
        let cache = variables.path("HF_HUB_CACHE").or_else(|| variables.path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or_else(no_home)?;
        let mut settings = Self::new(cache);
        if let Some(endpoint) = variables.text("HF_ENDPOINT")? {
            settings.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        settings.offline = match variables.text("HF_HUB_OFFLINE")? {
            Some(value) => is_true(&value),
            None => variables.text("TRANSFORMERS_OFFLINE")?.is_some_and(|value| is_true(&value)),
        };
        if !settings.offline {
            settings.token = variables.token(home.as_deref())?;
        }
        Ok(settings)
    }
}

fn no_home() -> Error {
    let problem = "is not set and there is no home folder: set it to a folder for files of the hub".to_owned();
    Error::Setting { variable: "HF_HOME", problem }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    /// A variable that is set and not empty.
    fn raw(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Error> {
        let not_text = |_| Error::Setting { variable: name, problem: "is not UTF-8 text".to_owned() };
        self.raw(name).map(OsString::into_string).transpose().map_err(not_text)
    }

    /// A path, in which a leading `~/` is the home folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.raw(name)?);
        match (path.strip_prefix("~"), self.user_home()) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }

    fn user_home(&self) -> Option<PathBuf> {
        self.raw("HOME").map(PathBuf::from).or_else(std::env::home_dir)
    }

    fn hub_home(&self) -> Option<PathBuf> {
        let caches = || self.path("XDG_CACHE_HOME").or_else(|| Some(self.user_home()?.join(".cache")));
        self.path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
    }

    fn token(&self, home: Option<&Path>) -> Result<Option<Token>, Error> {
        if self.text("HF_HUB_DISABLE_IMPLICIT_TOKEN")?.is_some_and(|value| is_true(&value)) {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(token) = self.text(name)?.and_then(|text| Token::new(&text)) {
                return Ok(Some(token));
            }
        }
        let Some(path) = self.path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token"))) else { return Ok(None) };
        match storage::read_text(&path) {
            Ok(text) => Ok(Token::new(&text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::from_variables(&find).unwrap()
    }

    fn check_cache(variables: &[(&str, &str)], cache: &str) {
        assert_eq!(settings(variables).cache, Path::new(cache), "{variables:?}");
    }

    #[test]
    fn the_cache_is_in_the_same_folder_as_in_python() {
        check_cache(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
        check_cache(&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub");
        check_cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check_cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub");
        check_cache(&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub");
        check_cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c");
        check_cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/d")], "/d");
        check_cache(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/d")], "/c");
    }

    #[test]
    fn offline_accepts_the_same_values_as_python() {
        for value in ["1", "on", "Yes", "TRUE"] {
            assert!(settings(&[("HF_HOME", "/f"), ("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        for value in ["", "0", "no", "off", "false", "2"] {
            assert!(!settings(&[("HF_HOME", "/f"), ("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        assert!(settings(&[("HF_HOME", "/f"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn a_slash_after_the_endpoint_is_removed() {
        assert_eq!(settings(&[("HF_HOME", "/f")]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_HOME", "/f"), ("HF_ENDPOINT", "http://h:1/p/")]).endpoint, "http://h:1/p");
    }

    #[test]
    fn the_token_comes_from_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other\r\n").unwrap();
        let other = folder.path().join("other");
        let check = |more: &[(&str, &str)], token: Option<&str>| {
            let variables: Vec<_> = [("HF_HOME", home)].iter().chain(more).copied().collect();
            assert_eq!(settings(&variables).token, token.and_then(Token::new), "{more:?}");
        };
        check(&[], Some("hf_file"));
        check(&[("HF_TOKEN_PATH", other.to_str().unwrap())], Some("hf_other"));
        check(&[("HF_TOKEN", " hf_x\n")], Some("hf_x"));
        check(&[("HF_TOKEN", " ")], Some("hf_file"));
        check(&[("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")], None);
        check(&[("HF_TOKEN", "hf_x"), ("HF_HUB_OFFLINE", "1")], None);
    }

    #[test]
    fn debug_output_hides_the_token() {
        let settings = settings(&[("HF_HOME", "/f"), ("HF_TOKEN", "hf_secret")]);
        assert!(settings.token.is_some() && !format!("{settings:?}").contains("hf_secret"));
    }
}
