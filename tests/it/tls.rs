//! Providers over TLS: reached when their certificate is good, never spoken to when it is not.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::gateway::Gateway;
use crate::support::provider::Provider;
use crate::support::{ask, ask_streamed};

/// An authority of our own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Its certificate, in a file that `SSL_CERT_FILE` can name.
    fn file(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), self.0.pem()).expect("written");
        file
    }

    /// What a server for this name needs.
    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(server.expect("a server"))
    }
}

/// Speaks TLS as `localhost` and passes what is inside on to `provider`; returns its base URL.
async fn front(server: Arc<ServerConfig>, provider: &Provider) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let base = provider.base();
    let inner = base.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(server);
        while let Ok((outside, _)) = listener.accept().await {
            let (acceptor, inner) = (acceptor.clone(), inner.clone());
            #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
            tokio::spawn(async move {
                // A caller who does not like the certificate ends here.
                let Ok(mut outside) = acceptor.accept(outside).await else { return };
                let Ok(mut inside) = TcpStream::connect(inner).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    format!("https://localhost:{port}/v1")
}

async fn asks_once(trusted: &Authority, name: &str, signer: &Authority) -> (u16, usize) {
    let provider = Provider::streams(["ok"]);
    let base = front(signer.server(name), &provider).await;
    let roots = trusted.file();
    let start = Gateway::start().price("p:m", 1000.0, 2000.0).provider_at("p", &base, "");
    let gateway = start.env("SSL_CERT_FILE", &roots.path().display().to_string()).await;
    let key = gateway.key("u").await;
    let answer = gateway.chat(&key, &ask()).await;
    if answer.status == 200 {
        let stream = gateway.stream(&key, &ask_streamed()).await.text().await.expect("whole");
        assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert_eq!(provider.connections(), 1, "the second call takes the pooled connection");
    } else {
        let row = gateway.usage(1).await.remove(0);
        assert_eq!((&row["status"], &row["error_message"]), (&json!("error"), &json!("connect")));
    }
    (answer.status, provider.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_provider_is_reached_over_tls() {
    let authority = Authority::new();
    assert_eq!(asks_once(&authority, "localhost", &authority).await, (200, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_an_unknown_authority_is_refused_before_the_credential_leaves() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    assert_eq!(asks_once(&ours, "localhost", &theirs).await, (502, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    assert_eq!(asks_once(&authority, "elsewhere.test", &authority).await, (502, 0));
}
