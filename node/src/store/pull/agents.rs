//! The two HTTP clients of a hub: one that asks, one that fetches.

use std::fs;
use std::sync::Arc;

use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Patience, SourceError};
use crate::config::HubConfig;

pub(super) struct Agents {
    /// Asks what a file is: short, and shows redirects instead of following them.
    pub(super) asking: Agent,
    /// Fetches content: follows redirects and takes as long as bytes arrive.
    pub(super) fetching: Agent,
}

impl Agents {
    pub(super) fn new(config: &HubConfig, patience: Patience) -> Result<Self, SourceError> {
        let tls = TlsConfig::builder().root_certs(authorities(config)?).build();
        let common = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls.clone())
                .timeout_resolve(Some(patience.answer))
                .timeout_connect(Some(patience.answer))
        };
        let asking =
            common().timeout_global(Some(patience.answer)).max_redirects(0).max_redirects_will_error(false);
        let fetching =
            common().timeout_per_read(Some(patience.stall)).timeout_recv_response(Some(patience.stall));
        Ok(Self { asking: asking.build().into(), fetching: fetching.build().into() })
    }
}

/// Mozilla's list, or the one that the environment names.
fn authorities(config: &HubConfig) -> Result<RootCerts, SourceError> {
    let Some(file) = &config.ca_file else {
        return Ok(RootCerts::WebPki);
    };
    let pem = fs::read(file).map_err(SourceError::io(file))?;
    let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| SourceError::io(file)(std::io::Error::other(error)))?;
    let certificates = items.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        let message = "it holds no certificate (REQUESTS_CA_BUNDLE, SSL_CERT_FILE)";
        return Err(SourceError::io(file)(std::io::Error::other(message)));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}
