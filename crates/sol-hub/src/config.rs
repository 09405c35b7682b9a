//! Where things are and what is allowed: the environment, read once.
//!
//! The variables are those of the hub's own Python client, so that a machine set up for it needs
//! nothing more. Everything else in the crate sees only [`HubConfig`], never the environment; tests
//! build one by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::default_model::PinnedModel;
use crate::error::{Error, Result};

/// The public hub, where `HF_ENDPOINT` does not name another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long to wait for what. The defaults suit people: no network is noticed in seconds.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// To resolve a name and to connect, each.
    pub connect: Duration,
    /// From a request to the first line of its answer.
    pub response: Duration,
    /// Without a single byte in the middle of a file.
    pub stall: Duration,
    /// Before the first repetition of a failed request; doubled for each further one.
    pub backoff: Duration,
    /// The longest pause that a busy hub (`Retry-After`) can ask for; beyond it, it is an error.
    pub longest_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            response: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            backoff: Duration::from_millis(300),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Everything that the environment decides.
#[derive(Clone)]
pub struct HubConfig {
    /// Base address of the hub, without a trailing slash.
    pub endpoint: String,
    /// Sent to the endpoint, and to no other host.
    pub token: Option<String>,
    /// Do not ask the hub: only what the cache holds.
    pub offline: bool,
    /// The hub cache: holds `models--org--repo` directories, shared with other programs.
    pub hub_cache: PathBuf,
    /// Our own cache: models that did not come from the hub.
    pub models_dir: PathBuf,
    /// Commands that stand for `pip`, in the order to try; arguments such as `-m pip` included.
    pub pip: Vec<Vec<OsString>>,
    /// Whether `HTTPS_PROXY` and its relatives are honoured. Never for a hub on this machine.
    pub use_proxy: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// The file behind [`ModelRef::Default`](crate::ModelRef::Default).
    pub default_model: PinnedModel,
}

// By hand, so that a token never ends in a log.
impl std::fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("offline", &self.offline)
            .field("hub_cache", &self.hub_cache)
            .field("models_dir", &self.models_dir)
            .field("pip", &self.pip)
            .field("use_proxy", &self.use_proxy)
            .field("timeouts", &self.timeouts)
            .field("default_model", &self.default_model)
            .finish()
    }
}

impl HubConfig {
    /// Reads the environment of this process and the token file, if there is one.
    ///
    /// `HF_ENDPOINT`, `HF_TOKEN` (or the file `HF_TOKEN_PATH`, `$HF_HOME/token`), `HF_HUB_OFFLINE`,
    /// `HF_HUB_CACHE` or `HF_HOME`, and for our own cache `SOLARIUM_HOME`.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// The same from any source of variables.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| -> Result<Option<PathBuf>> {
            var(name).map(|value| expand_home(PathBuf::from(value), home.as_deref())).transpose()
        };

        let user_cache = match (path("XDG_CACHE_HOME")?, &home) {
            (Some(dir), _) => Some(dir),
            (None, home) => home.as_ref().map(|home| home.join(".cache")),
        };
        let hf_home = match path("HF_HOME")? {
            Some(dir) => Some(dir),
            None => user_cache.as_ref().map(|dir| dir.join("huggingface")),
        };
        let hub_cache = match (path("HF_HUB_CACHE")?, path("HUGGINGFACE_HUB_CACHE")?, &hf_home) {
            (Some(dir), _, _) | (None, Some(dir), _) => dir,
            (None, None, Some(home)) => home.join("hub"),
            (None, None, None) => {
                return Err(Error::NoCacheDirectory { variables: "HOME, HF_HOME or HF_HUB_CACHE" });
            }
        };
        let own = match path("SOLARIUM_HOME")? {
            Some(dir) => dir,
            None => platform_cache(&var, home.as_deref(), user_cache.as_deref())
                .ok_or(Error::NoCacheDirectory { variables: "HOME or SOLARIUM_HOME" })?,
        };

        let text = |name: &'static str| -> Result<Option<String>> {
            var(name)
                .map(|value| {
                    value.into_string().map_err(|_| Error::BadVariable { variable: name, reason: "it is not UTF-8".to_owned() })
                })
                .transpose()
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::BadVariable {
                variable: "HF_ENDPOINT",
                reason: format!("'{endpoint}' does not begin with https:// or http://"),
            });
        }

        let token = match text("HF_TOKEN")? {
            Some(token) => Some(token),
            None => match text("HUGGING_FACE_HUB_TOKEN")? {
                Some(token) => Some(token),
                None => path("HF_TOKEN_PATH")?
                    .or_else(|| hf_home.as_ref().map(|home| home.join("token")))
                    .and_then(|file| std::fs::read_to_string(file).ok()),
            },
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::BadVariable {
                variable: "HF_TOKEN",
                reason: "a token is one word of plain ASCII (its value is not shown here)".to_owned(),
            });
        }

        let offline = text("HF_HUB_OFFLINE")?.or(text("TRANSFORMERS_OFFLINE")?);
        Ok(Self {
            endpoint,
            token,
            offline: offline.is_some_and(|value| is_true(&value)),
            hub_cache,
            models_dir: own.join("models"),
            pip: default_pip(),
            use_proxy: true,
            timeouts: Timeouts::default(),
            default_model: PinnedModel::default(),
        })
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// `~/x` as a variable may hold it when no shell has expanded it.
fn expand_home(path: PathBuf, home: Option<&Path>) -> Result<PathBuf> {
    match path.strip_prefix("~") {
        Ok(rest) => match home {
            Some(home) => Ok(home.join(rest)),
            None => Err(Error::NoCacheDirectory { variables: "HOME" }),
        },
        Err(_) => Ok(path),
    }
}

fn platform_cache(var: &impl Fn(&str) -> Option<OsString>, home: Option<&Path>, user_cache: Option<&Path>) -> Option<PathBuf> {
    if cfg!(windows) {
        var("LOCALAPPDATA").map(|dir| PathBuf::from(dir).join("solarium"))
    } else if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library/Caches/solarium"))
    } else {
        user_cache.map(|dir| dir.join("solarium"))
    }
}

/// Every usual way to start pip. A virtual environment made by uv has a python without pip, so the
/// plain programs follow the modules, and uv itself comes last.
fn default_pip() -> Vec<Vec<OsString>> {
    [&["python3", "-m", "pip"][..], &["python", "-m", "pip"], &["pip3"], &["pip"], &["uv", "pip"]]
        .iter()
        .map(|command| command.iter().map(OsString::from).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig> {
        let vars: Vec<(String, OsString)> = vars.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        HubConfig::from_vars(move |name| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn cache_directories_in_order_of_precedence() {
        let hub = |vars: &[(&str, &str)]| config(vars).unwrap().hub_cache;
        let home = ("HOME", "/home/ada");
        assert_eq!(hub(&[home]), Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(hub(&[home, ("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(hub(&[home, ("HF_HOME", "/hf")]), Path::new("/hf/hub"));
        assert_eq!(hub(&[home, ("HF_HOME", "~/hf")]), Path::new("/home/ada/hf/hub"));
        assert_eq!(hub(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/x")]), Path::new("/x"));
        assert_eq!(config(&[home, ("SOLARIUM_HOME", "/s")]).unwrap().models_dir, Path::new("/s/models"));
    }

    #[test]
    fn no_home_names_the_variables() {
        let error = config(&[]).unwrap_err().to_string();
        assert!(error.contains("HF_HOME"), "{error}");
        assert!(config(&[("HF_HUB_CACHE", "/x"), ("SOLARIUM_HOME", "/s")]).is_ok());
    }

    #[test]
    fn endpoint_token_and_offline() {
        let home = ("HOME", "/nowhere");
        assert_eq!(config(&[home]).unwrap().endpoint, DEFAULT_ENDPOINT);
        let mirror = config(&[home, ("HF_ENDPOINT", "http://mirror:8080/hf//")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror:8080/hf");
        assert!(config(&[home, ("HF_ENDPOINT", "mirror")]).is_err());

        let token = config(&[home, ("HF_TOKEN", " hf_secret\n")]).unwrap();
        assert_eq!(token.token.as_deref(), Some("hf_secret"));
        assert!(!format!("{token:?}").contains("hf_secret"));
        let error = config(&[home, ("HF_TOKEN", "hf_se cret")]).unwrap_err().to_string();
        assert!(!error.contains("hf_se"), "{error}");

        for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("", false)] {
            assert_eq!(config(&[home, ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline);
        }
    }

    #[test]
    fn token_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_filed\n").unwrap();
        let hf_home = dir.path().to_str().unwrap();
        let token = |vars: &[(&str, &str)]| config(vars).unwrap().token;
        assert_eq!(token(&[("HOME", "/h"), ("HF_HOME", hf_home)]).as_deref(), Some("hf_filed"));
        assert_eq!(token(&[("HOME", "/h"), ("HF_HOME", hf_home), ("HF_TOKEN", "hf_var")]).as_deref(), Some("hf_var"));
    }
}
