//! `tls_cert_path`, `tls_key_path`, `management_*`: what callers see of the gateway's identity, and where it is managed.
//! Certificates are read and checked here, so that a wrong pair is said with its place and never put into effect.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;

use super::Listen;
use super::layers::Fields;
use super::node::Node;
use super::problem::Report;
use crate::clock;

/// A certificate with its key, as the files had it.
#[derive(Clone)]
pub struct Tls {
    /// The chain, PEM, the gateway's own first.
    pub cert_path: PathBuf,
    /// Its key, PEM.
    pub key_path: PathBuf,
    /// Both, read.
    pub certified: Arc<CertifiedKey>,
    /// From when on callers refuse it, in seconds since 1970.
    pub not_after: i64,
}

impl Tls {
    /// Whether callers refuse it by now.
    pub fn has_expired(&self) -> bool {
        self.not_after <= clock::now().as_second()
    }

    /// When it ends, for people.
    pub fn until(&self) -> String {
        jiff::Timestamp::from_second(self.not_after)
            .map_or_else(|_| "an instant that no calendar holds".into(), |at| at.to_string())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({}, until {})", self.cert_path.display(), self.not_after)
    }
}

/// Where the gateway is managed, when that is not where it is called.
#[derive(Clone)]
pub struct Management {
    /// `management_address`.
    pub listen: Listen,
    /// Judges certificates of clients; `None`: they need none.
    pub clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Management({:?}, mTLS {})", self.listen, self.clients.is_some())
    }
}

/// A path that is set, and where it is written.
fn path<'a>(fields: &'a Fields, key: &str, report: &mut Report) -> Option<(&'a Node, PathBuf)> {
    let text = fields.text(key, report).map(str::trim).filter(|text| !text.is_empty());
    fields.get(key).zip(text.map(PathBuf::from))
}

/// The certificate that callers see; `None`: no TLS.
pub(super) fn read(fields: &Fields, report: &mut Report) -> Option<Tls> {
    let cert = path(fields, "tls_cert_path", report);
    let key = path(fields, "tls_key_path", report);
    let ((cert_node, cert), (key_node, key)) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (Some((node, _)), None) => {
            node.wrong(report, "a certificate needs its key. Set tls_key_path.");
            return None;
        }
        (None, Some((node, _))) => {
            node.wrong(report, "a key needs its certificate. Set tls_cert_path.");
            return None;
        }
        (None, None) => return None,
    };
    let chain = said(chain(&cert), cert_node, report);
    let secret = said(secret(&key), key_node, report);
    let certified = said(pair(chain?, secret?), key_node, report)?;
    let not_after = certified.end_entity_cert().ok().and_then(|own| not_after(own));
    let Some(not_after) = not_after else {
        cert_node
            .wrong(report, "the first certificate cannot be read. Put the gateway's own first.");
        return None;
    };
    let certified = Arc::new(certified);
    let tls = Tls { cert_path: cert, key_path: key, certified, not_after };
    if tls.has_expired() {
        let text =
            format!("the certificate expired at {}, callers refuse it. Renew it.", tls.until());
        cert_node.warn(report, &text);
    }
    Some(tls)
}

/// Where the gateway is managed; `None`: where it is called.
pub(super) fn management(
    fields: &Fields,
    listen: &Listen,
    tls: Option<&Tls>,
    report: &mut Report,
) -> Option<Management> {
    let ca = path(fields, "management_client_ca_path", report);
    let text =
        fields.text("management_address", report).map(str::trim).filter(|text| !text.is_empty());
    let Some((node, text)) = fields.get("management_address").zip(text) else {
        if let Some((node, _)) = ca {
            node.wrong(report, "has no effect without management_address. Set both.");
        }
        return None;
    };
    let address = text.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok()?;
        let fits = !host.is_empty() && !host.contains(char::is_whitespace);
        fits.then(|| Listen { host: host.to_owned(), port })
    });
    let Some(address) = address else {
        node.wrong(report, "not an address. Write host:port, such as 127.0.0.1:8001.");
        return None;
    };
    if address == *listen && address.port != 0 {
        node.wrong(report, "the gateway is called there. Use another port, or leave it out.");
        return None;
    }
    let clients = match ca {
        None => None,
        Some((node, _)) if tls.is_none() => {
            node.wrong(
                report,
                "certificates of clients need TLS. Set tls_cert_path and tls_key_path.",
            );
            return None;
        }
        Some((node, file)) => Some(said(verifier(&file), node, report)?),
    };
    Some(Management { listen: address, clients })
}

/// What was read, or nothing and the reason in the report.
fn said<T>(read: Result<T, String>, node: &Node, report: &mut Report) -> Option<T> {
    read.map_err(|why| node.wrong(report, &why)).ok()
}

fn bytes(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| {
        format!("{} cannot be read: {error}. Check the path and who may read it.", file.display())
    })
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = bytes(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{} holds no certificate. It must be PEM.", file.display())),
        Err(error) => Err(format!("{} is no PEM: {error}.", file.display())),
    }
}

fn secret(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The error of the parser names kinds of sections, never what is in them.
    PrivateKeyDer::from_pem_slice(&bytes(file)?).map_err(|error| {
        format!(
            "{} holds no private key: {error}. It must be PEM, without a password.",
            file.display()
        )
    })
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    secret: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, secret, &ring::default_provider()).map_err(|error| {
        format!("the key and the certificate of tls_cert_path do not fit: {error}.")
    })
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Lets in clients whose certificate one of these authorities has signed.
fn verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file)? {
        roots.add(certificate).map_err(|error| {
            format!("{}: not an authority's certificate: {error}.", file.display())
        })?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
    let verifier = verifier.map_err(|error| format!("{}: {error}.", file.display()))?;
    Ok(verifier)
}
