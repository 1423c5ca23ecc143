//! TLS towards PostgreSQL: libpq's `sslmode` and `sslrootcert`, which tokio-postgres only half knows.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresTls;
use crate::store::StoreError;

/// The part of `tls` that tokio-postgres decides: whether to ask for TLS at all.
pub(super) fn mode(tls: PostgresTls) -> SslMode {
    match tls {
        PostgresTls::Disable => SslMode::Disable,
        PostgresTls::Prefer => SslMode::Prefer,
        PostgresTls::Require | PostgresTls::VerifyCa | PostgresTls::VerifyFull => SslMode::Require,
    }
}

/// The part that rustls decides: whom to trust.
///
/// # Errors
///
/// `Unavailable` when the roots cannot be read.
pub(super) fn connector(
    tls: PostgresTls,
    root_cert: Option<&Path>,
) -> Result<MakeRustlsConnect, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match (tls, root_cert) {
        (PostgresTls::VerifyFull, _) => chain(root_cert, &provider)?,
        // As in libpq: who names roots together with `require` wants them used.
        (PostgresTls::VerifyCa, _) | (PostgresTls::Require, Some(_)) => Arc::new(Lenient {
            chain: Some(chain(root_cert, &provider)?),
            provider: provider.clone(),
        }),
        _ => Arc::new(Lenient { chain: None, provider: provider.clone() }),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// The full check, against the roots of a file or of the system.
fn chain(
    root_cert: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, StoreError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = root_cert {
        let named =
            |error: &dyn std::fmt::Display| unusable(&format!("{}: {error}", path.display()));
        for cert in CertificateDer::pem_file_iter(path).map_err(|error| named(&error))? {
            roots.add(cert.map_err(|error| named(&error))?).map_err(|error| named(&error))?;
        }
    } else {
        // A system's bundle often has a certificate nobody can read; the others are as good.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(&error))
}

fn unusable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable {
        message: format!("the database's root certificates are unusable: {error}"),
    }
}

/// Never looks at the server's name; looks at its chain if there is one to look with.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // rustls looks at the name last: everything else was in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
