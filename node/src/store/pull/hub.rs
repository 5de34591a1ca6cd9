//! The Hugging Face hub: what a file is (HEAD), then its content, kept in the hub's own cache.
//!
//! The rules are those of `huggingface_hub` (`file_download.py`): the commit, the ETag and the size of a file that lies
//! on another host come in `X-Repo-Commit`, `X-Linked-Etag` and `X-Linked-Size` of the redirect; relative redirects
//! (renamed repositories) are followed; the token goes to the hub only.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Response, header};

use super::agents::Agents;
use super::discover::Shelf;
use super::hub_cache::HubCache;
use super::staging::verify;
use super::transfer::download;
use super::{ModelFile, Patience, Progress, SourceError};
use crate::config::HubConfig;
use crate::store::catalogue::unhex;

/// Redirects within the hub.
const REDIRECTS_MAX: usize = 5;
/// Times that "too many requests" or "unavailable" is waited for.
const RETRIES_MAX: usize = 3;
/// Wait after a 5xx that names none.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);
/// Characters of an ETag: a git or SHA-256 hash is shorter.
const ETAG_CHARS_MAX: usize = 128;

/// One repository at one revision.
pub(super) struct Hub<'a> {
    config: &'a HubConfig,
    repository: &'a str,
    revision: &'a str,
    cache: HubCache,
    patience: Patience,
    agents: Agents,
}

/// What the hub says of a file.
#[derive(Debug, PartialEq, Eq)]
struct Metadata {
    url: String,
    commit: String,
    etag: String,
    bytes: Option<u64>,
}

impl<'a> Hub<'a> {
    pub(super) fn new(
        config: &'a HubConfig,
        repository: &'a str,
        revision: &'a str,
        patience: Patience,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            config,
            repository,
            revision,
            cache: HubCache::new(&config.cache_dir, repository),
            patience,
            agents: Agents::new(config, patience)?,
        })
    }

    /// Brings one file into the cache and gives its place there.
    pub(super) fn fetch(
        &self,
        file: &ModelFile,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, SourceError> {
        let metadata = self.metadata(&file.path, progress)?;
        if metadata.bytes.is_some_and(|bytes| bytes != file.bytes) {
            return Err(SourceError::Missing { path: file.path.clone() });
        }
        self.fetch_blob(file, &metadata, progress)
    }

    fn fetch_blob(
        &self,
        file: &ModelFile,
        metadata: &Metadata,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, SourceError> {
        let _lock = self.cache.lock(&metadata.etag)?;
        let blob = self.cache.blob(&metadata.etag);
        // What another tool put there is checked; content that is damaged is fetched again.
        let is_there = blob.is_file() && verify(file, &blob).is_ok();
        if !is_there {
            let part = self.cache.incomplete(&metadata.etag);
            download(file, &part, progress, &mut |from, progress| {
                self.content(&metadata.url, from, progress)
            })?;
            fs::rename(&part, &blob).map_err(SourceError::io(&blob))?;
        }
        self.cache.publish(&metadata.etag, &metadata.commit, &file.path)?;
        self.cache.note_ref(self.revision, &metadata.commit)?;
        Ok(blob)
    }

    fn metadata(&self, path: &str, progress: &mut dyn Progress) -> Result<Metadata, SourceError> {
        let endpoint = &self.config.endpoint;
        let mut url = format!("{endpoint}/{}/resolve/{}/{}", self.repository, self.revision, path);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.persist(&url, progress, || {
                let mut request = self.agents.asking.head(&url);
                if let Some(token) = &self.config.token {
                    request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
                }
                request.call()
            })?;
            let headers = response.headers();
            let location = text(headers, header::LOCATION.as_str());
            if let (true, Some(location)) = (response.status().is_redirection(), location)
                && let Some(inside) = within(endpoint, location)
                && text(headers, "x-linked-etag").is_none()
            {
                url = inside;
                continue;
            }
            return metadata(url, headers);
        }
        Err(SourceError::Protocol { url, message: format!("more than {REDIRECTS_MAX} redirects") })
    }

    /// The content from byte `from` on.
    fn content(
        &self,
        url: &str,
        from: u64,
        progress: &mut dyn Progress,
    ) -> Result<Response<Body>, SourceError> {
        self.persist(url, progress, || {
            let mut request = self.agents.fetching.get(url);
            if let Some(token) = &self.config.token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            request.call()
        })
    }

    /// Sends until the answer is final: waits as long as a 429 or 5xx asks, within bounds.
    fn persist(
        &self,
        url: &str,
        progress: &mut dyn Progress,
        send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, SourceError> {
        let mut tries = 0;
        loop {
            let response = send().map_err(|source| SourceError::Unreachable {
                url: url.to_owned(),
                source: Box::new(source),
            })?;
            let status = response.status();
            let busy = status.as_u16() == 429 || status.is_server_error();
            if !busy {
                return self.accept(url, response);
            }
            let asked = text(response.headers(), header::RETRY_AFTER.as_str())
                .and_then(|seconds| seconds.parse().ok())
                .map(Duration::from_secs);
            let wait = asked.unwrap_or(RETRY_DEFAULT);
            tries += 1;
            if tries > RETRIES_MAX || wait > self.patience.retry_after {
                return Err(refusal(url, status.as_u16(), asked));
            }
            progress.note(&format!("{url} answered {status}: again in {} s", wait.as_secs()));
            pause(wait);
        }
    }

    fn accept(&self, url: &str, response: Response<Body>) -> Result<Response<Body>, SourceError> {
        let url = || url.to_owned();
        match response.status().as_u16() {
            200..=399 | 416 => Ok(response),
            status @ (401 | 403) => {
                Err(SourceError::Unauthorized { url: url(), status, token_sent: self.config.token.is_some() })
            }
            404 => Err(SourceError::NotFound { url: url() }),
            status => Err(SourceError::Status { url: url(), status }),
        }
    }
}

impl Shelf for Hub<'_> {
    /// The hub states the SHA-256 of large files as their ETag; of the others only the length is checked.
    fn find(
        &self,
        path: &str,
        progress: &mut dyn Progress,
    ) -> Result<Option<(ModelFile, PathBuf)>, SourceError> {
        let metadata = match self.metadata(path, progress) {
            Err(SourceError::NotFound { .. }) => return Ok(None),
            metadata => metadata?,
        };
        let Some(bytes) = metadata.bytes else {
            let message = "the answer has no length".to_owned();
            return Err(SourceError::Protocol { url: metadata.url, message });
        };
        let file = ModelFile { path: path.to_owned(), sha256: unhex(&metadata.etag), bytes };
        let blob = self.fetch_blob(&file, &metadata, progress)?;
        Ok(Some((file, blob)))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the source said when to come back; there is no condition to wait for"
)]
fn pause(wait: Duration) {
    std::thread::sleep(wait);
}

fn refusal(url: &str, status: u16, retry_after: Option<Duration>) -> SourceError {
    let url = url.to_owned();
    match status {
        429 => SourceError::RateLimited { url, retry_after },
        status => SourceError::Status { url, status },
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The redirect's target if it stays on the hub: only such a one may see the token.
fn within(endpoint: &str, location: &str) -> Option<String> {
    let authority_at = endpoint.find("://")? + 3;
    let origin_end = endpoint[authority_at..].find('/').map_or(endpoint.len(), |slash| authority_at + slash);
    let origin = &endpoint[..origin_end];
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{origin}{location}"));
    }
    let rest = location.strip_prefix(origin)?;
    rest.starts_with('/').then(|| location.to_owned())
}

fn metadata(url: String, headers: &HeaderMap) -> Result<Metadata, SourceError> {
    let linked_etag = text(headers, "x-linked-etag").or_else(|| text(headers, header::ETAG.as_str()));
    let etag = linked_etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
    let linked_size = text(headers, "x-linked-size");
    let own_size = || text(headers, header::CONTENT_LENGTH.as_str());
    let is_redirect = headers.contains_key(header::LOCATION);
    let size = linked_size.or_else(|| if is_redirect { None } else { own_size() });
    let commit = text(headers, "x-repo-commit").map(str::to_owned);
    match (etag, commit) {
        (Some(etag), Some(commit)) if is_file_name(&etag) && is_file_name(&commit) => {
            Ok(Metadata { bytes: size.and_then(|size| size.parse().ok()), url, commit, etag })
        }
        _ => Err(SourceError::Protocol {
            url,
            message: "the answer has no usable ETag and X-Repo-Commit; is HF_ENDPOINT a hub?".to_owned(),
        }),
    }
}

/// ETags and commits become file names, so nothing but plain ones is taken.
fn is_file_name(name: &str) -> bool {
    (1..=ETAG_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_redirects_within_the_hub_see_the_token() {
        let hub = "https://hub.example/mirror";
        assert_eq!(
            within(hub, "/new/resolve/main/a").as_deref(),
            Some("https://hub.example/new/resolve/main/a")
        );
        assert_eq!(within(hub, "https://hub.example/x").as_deref(), Some("https://hub.example/x"));
        for outside in ["https://cdn.example/x", "//cdn.example/x", "https://hub.example.evil/x", "x"] {
            assert_eq!(within(hub, outside), None, "{outside}");
        }
    }

    #[test]
    fn metadata_prefers_the_linked_file() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                let value = value.parse().expect("header value");
                (header::HeaderName::from_static(name), value)
            });
            pairs.collect::<HeaderMap>()
        };
        let linked = headers(&[
            ("x-repo-commit", "c0ffee"),
            ("x-linked-etag", "\"abc\""),
            ("etag", "W/\"def\""),
            ("x-linked-size", "12"),
            ("content-length", "1"),
            ("location", "https://cdn.example/abc"),
        ]);
        let found = metadata("u".into(), &linked).expect("sound");
        assert_eq!((found.etag.as_str(), found.bytes), ("abc", Some(12)));
        let plain = headers(&[("x-repo-commit", "c0ffee"), ("etag", "W/\"def\""), ("content-length", "3")]);
        let found = metadata("u".into(), &plain).expect("sound");
        assert_eq!((found.etag.as_str(), found.bytes), ("def", Some(3)));
        let evil = headers(&[("x-repo-commit", "c0ffee"), ("etag", "\"../../etc/passwd\"")]);
        assert!(matches!(metadata("u".into(), &evil), Err(SourceError::Protocol { .. })));
        assert!(metadata("u".into(), &headers(&[("etag", "\"abc\"")])).is_err());
    }
}
