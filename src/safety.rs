//! Ways to addresses that somebody else chose: a caller, a workspace, a page that a search found.
//!
//! A name is resolved once, each of its addresses is judged, and the connection goes to those and to no other: what the
//! name means a moment later does not matter. TLS still proves the name. Redirects are taken nowhere, or one by one, each
//! judged as the first address was.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, LOCATION, USER_AGENT};
use otari_filters::addresses::{Forbidden, Rules};
use reqwest::{Client, Response, Url, redirect};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use url::{Host, ParseError};

#[cfg(test)]
mod tests;

/// For one name. Callers choose the names, and so the servers that are asked.
const LOOKUP: Duration = Duration::from_secs(5);
/// Names that are looked up at once: each takes a thread until the system gives up.
const LOOKUPS: usize = 32;
/// Addresses of one name.
const MAX_ADDRESSES: usize = 64;
/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Judges addresses and makes clients that go nowhere else. Clones share what is costly.
#[derive(Clone)]
pub struct Safety(Arc<Shared>);

struct Shared {
    /// Made for the first client: it reads the machine's root certificates.
    tls: OnceLock<Option<ClientConfig>>,
    lookups: Arc<Semaphore>,
}

impl Default for Safety {
    fn default() -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Self(Arc::new(Shared { tls: OnceLock::new(), lookups }))
    }
}

/// A URL that may be gone to.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// As it was parsed.
    pub url: Url,
    /// Where it leads: judged. None: everything is allowed, and whoever connects looks the name up.
    addresses: Vec<SocketAddr>,
}

/// What of a page is read.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// From the first look-up to the last byte, redirects included.
    pub within: Duration,
    /// The rest of a longer page is not read.
    pub max_bytes: usize,
    /// Redirects that are taken.
    pub redirects: u32,
    /// Who asks.
    pub user_agent: &'static str,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where it was in the end.
    pub url: Url,
    /// Its `Content-Type`, without parameters, in lower case.
    pub mime: Option<String>,
    /// Its beginning, at most [`Fetch::max_bytes`].
    pub bytes: Bytes,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfetched {
    /// It may not be gone to, or a redirect leads where that is so.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Not within its time.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or one that broke.
    #[error("it cannot be reached")]
    Unreachable,
    /// A status that is no success.
    #[error("it answers {0}")]
    Status(u16),
    /// It redirects too often, or nowhere.
    #[error("it redirects too often, or to what is no address")]
    Redirects,
}

impl Safety {
    /// Judges a URL and everything its host resolves to. `has_token`: a credential goes along.
    ///
    /// # Errors
    /// Why it may not be gone to, for whoever wrote it.
    pub async fn admit(
        &self,
        rules: &Rules,
        url: &str,
        has_token: bool,
    ) -> Result<Admitted, Forbidden> {
        let parsed = match Url::parse(url.trim()) {
            Ok(parsed) => parsed,
            Err(error) => return Err(unparsed(rules, url.trim(), error)),
        };
        rules.url(parsed.scheme(), parsed.host_str(), has_token)?;
        self.admit_url(rules, parsed).await
    }

    async fn admit_url(&self, rules: &Rules, url: Url) -> Result<Admitted, Forbidden> {
        if rules.allow_private {
            return Ok(Admitted { url, addresses: Vec::new() });
        }
        // Both schemes have a port.
        let port = url.port_or_known_default().unwrap_or(443);
        let (name, addresses) = match url.host() {
            Some(Host::Ipv4(ip)) => (ip.to_string(), vec![SocketAddr::new(ip.into(), port)]),
            Some(Host::Ipv6(ip)) => (ip.to_string(), vec![SocketAddr::new(ip.into(), port)]),
            Some(Host::Domain(name)) => (name.to_owned(), self.look_up(name, port).await),
            None => (String::new(), Vec::new()),
        };
        let judged: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        rules.addresses(&name, &judged)?;
        Ok(Admitted { url, addresses })
    }

    /// The addresses of a name; none where there are none in time, or too many to be believed.
    async fn look_up(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        let (name, lookups) = (name.to_owned(), Arc::clone(&self.0.lookups));
        let asking = async {
            let permit = lookups.acquire_owned().await.ok()?;
            let ask = move || {
                // A look-up that nobody waits for any more still holds its place.
                let _permit = permit;
                let found = (name.as_str(), port).to_socket_addrs().ok()?;
                Some(found.take(MAX_ADDRESSES + 1).collect::<Vec<_>>())
            };
            tokio::task::spawn_blocking(ask).await.ok().flatten()
        };
        let found = timeout(LOOKUP, asking).await.ok().flatten().unwrap_or_default();
        // What was not judged is not gone to, and part of a list is not the list.
        if found.len() > MAX_ADDRESSES { Vec::new() } else { found }
    }

    /// A client that goes to `admitted` and nowhere else, and takes no redirects.
    ///
    /// # Errors
    /// When the machine cannot speak TLS.
    pub fn client(&self, admitted: &Admitted) -> Result<Client, Unfetched> {
        let tls = self.0.tls.get_or_init(tls).clone().ok_or(Unfetched::Unreachable)?;
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls);
        if let (Some(Host::Domain(name)), false) =
            (admitted.url.host(), admitted.addresses.is_empty())
        {
            builder = builder.resolve_to_addrs(name, &admitted.addresses);
        }
        builder.build().map_err(|_| Unfetched::Unreachable)
    }

    /// Reads a page, along its redirects.
    ///
    /// # Errors
    /// When there is none, or it may not be gone to.
    pub async fn fetch(&self, rules: &Rules, url: &str, how: &Fetch) -> Result<Page, Unfetched> {
        let until = Instant::now() + how.within;
        let fetching = async {
            let mut admitted = self.admit(rules, url, false).await?;
            for _ in 0..=how.redirects {
                let request = self.client(&admitted)?.get(admitted.url.clone());
                let sent = request.header(USER_AGENT, how.user_agent).send().await;
                let response = sent.map_err(|error| unfetched(&error))?;
                let status = response.status();
                if status.is_redirection() {
                    let next = target(&admitted.url, &response).ok_or(Unfetched::Redirects)?;
                    rules.url(next.scheme(), next.host_str(), false)?;
                    admitted = self.admit_url(rules, next).await?;
                } else if status.is_success() {
                    let mime = mime(&response);
                    let (bytes, _) = read(response, how.max_bytes).await?;
                    return Ok(Page { url: admitted.url, mime, bytes });
                } else {
                    return Err(Unfetched::Status(status.as_u16()));
                }
            }
            Err(Unfetched::Redirects)
        };
        timeout_at(until, fetching).await.unwrap_or(Err(Unfetched::Timeout))
    }
}

/// Reads an answer up to `most` bytes; whether that was all.
///
/// # Errors
/// When the connection breaks.
pub async fn read(mut response: Response, most: usize) -> Result<(Bytes, bool), Unfetched> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(|error| unfetched(&error))? {
        let room = most - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return Ok((bytes.freeze(), false));
        }
    }
    Ok((bytes.freeze(), true))
}

fn unfetched(error: &reqwest::Error) -> Unfetched {
    if error.is_timeout() { Unfetched::Timeout } else { Unfetched::Unreachable }
}

/// What is wrong with a text that is no URL.
fn unparsed(rules: &Rules, text: &str, error: ParseError) -> Forbidden {
    let scheme = match error {
        ParseError::RelativeUrlWithoutBase => "",
        _ => text.split_once(':').map_or("", |(scheme, _)| scheme),
    };
    let why = rules.url(scheme, None, false);
    why.err().unwrap_or_else(|| Forbidden("it is no URL".to_owned()))
}

/// Where a redirect leads.
fn target(from: &Url, response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}

fn mime(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let mime = value.split(';').next().unwrap_or_default().trim();
    (!mime.is_empty()).then(|| mime.to_ascii_lowercase())
}

/// What proves names: the machine's root certificates. A machine without any can still go to plain addresses.
fn tls() -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(config)
}
