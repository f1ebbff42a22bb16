//! Where the cache is, whom to ask and as whom: the environment variables of Python's `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// A secret that names an account to the hub; it never shows in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from its text, `None` if that is blank.
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

/// How to reach the hub and where to keep what comes from it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with one folder a repository.
    pub cache: PathBuf,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Whom to ask as; sent to the endpoint's own host only.
    pub token: Option<Token>,
    /// Only the cache: no socket is opened.
    pub offline: bool,
    /// Whether `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment count.
    pub proxy: bool,
    /// How long looking up a host and connecting to it may take.
    pub connect_timeout: Duration,
    /// How long a server may send nothing.
    pub stall_timeout: Duration,
    /// The pause before the second try; it doubles with every further one.
    pub first_pause: Duration,
}

impl Settings {
    /// Huggingface's own hub, asked as nobody, with a cache folder.
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

    /// What the environment says: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, and their older names that Python still reads.
    ///
    /// # Errors
    /// When there is neither `HF_HOME` nor a home folder, the token file cannot be read, or a value is not text.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// As [`Settings::from_env`], from any source of variables.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
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
    let problem = "is not set and there is no home folder: set it to a folder for what comes from the hub".to_owned();
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

    /// A path, with a leading `~/` standing for the home folder.
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
    fn the_cache_is_where_python_has_it() {
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
    fn offline_is_a_word_of_python() {
        for value in ["1", "on", "Yes", "TRUE"] {
            assert!(settings(&[("HF_HOME", "/f"), ("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        for value in ["", "0", "no", "off", "false", "2"] {
            assert!(!settings(&[("HF_HOME", "/f"), ("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        assert!(settings(&[("HF_HOME", "/f"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn the_endpoint_loses_its_slash() {
        assert_eq!(settings(&[("HF_HOME", "/f")]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_HOME", "/f"), ("HF_ENDPOINT", "http://h:1/p/")]).endpoint, "http://h:1/p");
    }

    #[test]
    fn the_token_comes_from_the_variable_or_a_file() {
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
    fn a_token_never_shows() {
        let settings = settings(&[("HF_HOME", "/f"), ("HF_TOKEN", "hf_secret")]);
        assert!(settings.token.is_some() && !format!("{settings:?}").contains("hf_secret"));
    }
}
