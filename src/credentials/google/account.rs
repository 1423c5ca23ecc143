//! Service accounts, which sign for themselves, and users, who once gave a refresh token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use otari_filters::secret::Secret;
use reqwest::Url;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{SCOPE, TOKEN_URI, address, required};
use crate::credentials::client::{self, Http, send};
use crate::credentials::kept::Issued;
use crate::credentials::{CredentialFailure, oauth};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Google takes no longer one.
const ASSERTION_S: i64 = 3_600;

/// An account of a program.
#[derive(Debug)]
pub(crate) struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    /// Shows its public half alone.
    key: RsaKeyPair,
    token_uri: Url,
    /// `token_uri` as it is written: the token endpoint compares texts.
    audience: String,
}

impl ServiceAccount {
    /// # Errors
    /// What is wrong, without any value.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let pem = required(value, "private_key")?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "`private_key` is not a PKCS #8 key in PEM".to_owned())?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|_| "`private_key` is not an RSA key that can sign".to_owned())?;
        let audience = value["token_uri"].as_str().filter(|text| !text.is_empty());
        Ok(Self {
            email: required(value, "client_email")?.to_owned(),
            key_id: value["private_key_id"].as_str().map(str::to_owned),
            key,
            token_uri: address(value, "token_uri", TOKEN_URI)?,
            audience: audience.unwrap_or(TOKEN_URI).to_owned(),
        })
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        let assertion = self.assertion(now / 1_000_000)?;
        let who = client::name(&self.token_uri);
        let form = [("grant_type", GRANT), ("assertion", assertion.expose())];
        let answer = send(&who, http.post_form(self.token_uri.clone(), &form)).await?;
        oauth::token(&who, &answer, now, |body| oauth::refusal(body, &[assertion.expose()]))
    }

    /// A signed JWT that says who asks.
    fn assertion(&self, now_s: i64) -> Result<Secret, CredentialFailure> {
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.audience,
            "iat": now_s,
            "exp": now_s + ASSERTION_S,
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| CredentialFailure::unavailable("the service account's key did not sign"))?;
        Ok(Secret::new(format!("{signed}.{}", encode(&signature))))
    }
}

/// An account of a person.
#[derive(Debug)]
pub(crate) struct User {
    client_id: String,
    client_secret: Secret,
    refresh_token: Secret,
    token_uri: Url,
}

impl User {
    /// # Errors
    /// What is wrong, without any value.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        Ok(Self {
            client_id: required(value, "client_id")?.to_owned(),
            client_secret: Secret::new(required(value, "client_secret")?),
            refresh_token: Secret::new(required(value, "refresh_token")?),
            token_uri: address(value, "token_uri", TOKEN_URI)?,
        })
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        let (secret, token) = (self.client_secret.expose(), self.refresh_token.expose());
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &self.client_id),
            ("client_secret", secret),
            ("refresh_token", token),
        ];
        let who = client::name(&self.token_uri);
        let answer = send(&who, http.post_form(self.token_uri.clone(), &form)).await?;
        oauth::token(&who, &answer, now, |body| oauth::refusal(body, &[secret, token]))
    }
}
