//! Where models come from: a path, a hub repository, the pinned default model; and what is already
//! here.
//!
//! [`ModelRef`] is what a person wrote, [`Hub::resolve`] makes a path of it, fetching what is missing,
//! [`Hub::list`] and [`Hub::remove`] look after the caches, [`Hub::outline`] looks before it fetches,
//! [`Hub::dataset`] gets files of a data set. Reading order: `reference`, `config`, `cache` (the layout on disk), `http`,
//! `download`, `select`, then `default_model` and `wheel`.
//!
//! This crate knows file names, sizes and hashes. It must not know what is inside a model or data file, and
//! draws nothing: it reports through [`Progress`].
//!
//! ```no_run
//! use sol_hub::{Hub, ModelRef, Silent};
//!
//! let hub = Hub::from_env()?;
//! let path = hub.resolve(&ModelRef::parse("org/repo:Q4_K_M")?, &Silent)?;
//! # Ok::<(), sol_hub::Error>(())
//! ```

mod cache;
mod config;
mod dataset;
mod default_model;
mod download;
mod error;
mod http;
mod inventory;
mod outline;
mod progress;
mod reference;
mod resolve;
mod select;
mod wheel;

use std::sync::OnceLock;

pub use config::{DEFAULT_ENDPOINT, HubConfig, Timeouts};
pub use dataset::DatasetFiles;
pub use default_model::PinnedModel;
pub use error::{Error, Result};
pub use http::root_certs;
pub use inventory::{CachedFile, CachedModel, Removed};
pub use progress::{Progress, Silent};
pub use reference::{ALIASES, Alias, DEFAULT_ALIAS, ModelRef};

/// The caches of this machine, and the hub behind them.
pub struct Hub {
    config: HubConfig,
    // Made when first needed: reading the machine's certificates takes milliseconds.
    client: OnceLock<http::Client>,
    datasets: dataset::Listings,
}

impl Hub {
    /// As the environment says; the variables are those of [`HubConfig::from_env`].
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(HubConfig::from_env()?))
    }

    /// With settings of one's own.
    pub fn new(config: HubConfig) -> Self {
        Self { config, client: OnceLock::new(), datasets: dataset::Listings::default() }
    }

    /// The settings in use.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    fn client(&self) -> &http::Client {
        self.client.get_or_init(|| http::Client::new(&self.config))
    }
}
