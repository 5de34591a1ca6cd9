//! The environment variables that are honoured, behind one value so that resolving is a function of it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::resolved::HubConfig;

/// Bytes of a token file; anything longer is not a token.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A snapshot of the environment: the variables, and the user's directories.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    vars: BTreeMap<String, String>,
    home: Option<PathBuf>,
    data_home: Option<PathBuf>,
}

impl Environment {
    /// What this process sees. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let pairs = env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let native = etcetera::base_strategy::choose_native_strategy().ok();
        Self {
            vars: pairs.collect(),
            home: etcetera::home_dir().ok(),
            data_home: native.map(|native| native.data_dir()),
        }
    }

    /// An environment made of these variables only; `HOME` and `XDG_DATA_HOME` give the directories.
    #[must_use]
    pub fn from_vars<'a>(vars: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let vars: BTreeMap<_, _> =
            vars.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let home = vars.get("HOME").map(PathBuf::from);
        let data_home = vars
            .get("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".local/share")));
        Self { vars, home, data_home }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that is set, to nothing perhaps: some mean something by that.
    #[must_use]
    pub fn even_empty(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// `SHOAL_HOME`, or `shoal` in the user's data directory, or `.shoal` here where there is no user.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.path("SHOAL_HOME")
            .or_else(|| self.data_home.as_ref().map(|home| home.join("shoal")))
            .unwrap_or_else(|| PathBuf::from(".shoal"))
    }

    /// The hub's settings, by the rules of the `huggingface_hub` library (its `constants.py`).
    #[must_use]
    pub fn hub(&self) -> HubConfig {
        let hf_home = self.path("HF_HOME").unwrap_or_else(|| {
            let cache = self
                .path("XDG_CACHE_HOME")
                .or_else(|| self.home.as_ref().map(|home| home.join(".cache")))
                .unwrap_or_else(|| PathBuf::from(".cache"));
            cache.join("huggingface")
        });
        let cache_dir = self
            .path("HF_HUB_CACHE")
            .or_else(|| self.path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hf_home.join("hub"));
        let token_file = self.path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        HubConfig {
            endpoint: self
                .get("HF_ENDPOINT")
                .unwrap_or("https://huggingface.co")
                .trim_end_matches('/')
                .to_owned(),
            token: self
                .get("HF_TOKEN")
                .map(|token| token.trim().to_owned())
                .or_else(|| read_token(&token_file)),
            cache_dir,
            ca_file: self.path("REQUESTS_CA_BUNDLE").or_else(|| self.path("SSL_CERT_FILE")),
            offline: self.is_true("HF_HUB_OFFLINE") || self.is_true("TRANSFORMERS_OFFLINE"),
        }
    }

    /// The values that `huggingface_hub` takes for true.
    fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    }
}

fn read_token(file: &Path) -> Option<String> {
    if fs::metadata(file).ok()?.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_follows_its_own_variables() {
        let plain = Environment::from_vars([("HOME", "/home/ada")]).hub();
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache_dir, Path::new("/home/ada/.cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none());

        let set = Environment::from_vars([
            ("HF_HOME", "/hf"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("HF_TOKEN", " secret "),
            ("HF_HUB_OFFLINE", "true"),
        ]);
        let hub = set.hub();
        assert_eq!(hub.endpoint, "http://127.0.0.1:1");
        assert_eq!(hub.cache_dir, Path::new("/hf/hub"));
        assert_eq!(hub.token.as_deref(), Some("secret"));
        assert!(hub.offline);
        assert!(!format!("{hub:?}").contains("secret"), "the token is never printed");

        let direct = Environment::from_vars([("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/elsewhere")]);
        assert_eq!(direct.hub().cache_dir, Path::new("/elsewhere"));
    }

    #[test]
    fn the_token_file_of_the_hub_login_is_read() {
        let home = tempfile::tempdir().expect("temporary directory");
        fs::write(home.path().join("token"), "from-file\n").expect("write");
        let home = home.path().to_str().expect("UTF-8");
        let hub = Environment::from_vars([("HF_HOME", home)]).hub();
        assert_eq!(hub.token.as_deref(), Some("from-file"));
    }

    #[test]
    fn shoal_home_decides_where_data_lives() {
        let set = Environment::from_vars([("SHOAL_HOME", "/srv/shoal"), ("HOME", "/root")]);
        assert_eq!(set.data_dir(), Path::new("/srv/shoal"));
        let unset = Environment::from_vars([("HOME", "/root"), ("SHOAL_HOME", "")]);
        assert_eq!(unset.data_dir(), Path::new("/root/.local/share/shoal"));
    }
}
