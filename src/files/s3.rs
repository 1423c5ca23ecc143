//! A bucket: Amazon's, or that of a server that speaks its protocol. `object_store` speaks it; ours are the credentials,
//! the HTTP client and the limits.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{
    CredentialProvider, Error, GetOptions, GetRange, MultipartId, ObjectStore as _,
    ObjectStoreExt as _, PutPayload, RetryConfig,
};
use otari_filters::files;
use otari_filters::providers;
use otari_filters::secret::Secret;
use otari_filters::upstream::{Draft as Provider, Upstream, redact};
use parking_lot::Mutex;

use super::blobs::Removed;
use crate::config::S3;
use crate::credentials::Credentials;

/// Sent at once, and what an upload holds in memory. Amazon takes no part below 5 MiB but the last.
const PART: u64 = 8 << 20;
/// Amazon takes no more parts.
const MAX_PARTS: u64 = 10_000;
/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence of the bucket; also what one part may take to go out.
const SILENCE: Duration = Duration::from_secs(60);
/// Repeats of a call, and when no more are begun.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Uploads that wait to be aborted. What is more than these a lifecycle rule of the bucket has to find.
const MAX_ORPHANS: usize = 1024;
/// Where the region is nobody's to say.
const ANY_REGION: &str = "us-east-1";

/// The bucket.
pub(super) struct Bucket(Arc<Shared>);

struct Shared {
    store: AmazonS3,
    /// All parts but the last have the same size: some makers insist on it.
    part_bytes: usize,
    /// Uploads in parts whose callers are gone. Dropping cannot wait, so it leaves them here.
    orphans: Mutex<Vec<Multipart>>,
}

/// An upload in parts.
#[derive(Clone)]
struct Multipart {
    key: Path,
    id: MultipartId,
}

/// An upload.
pub(super) struct Draft {
    bucket: Arc<Shared>,
    key: Path,
    /// What of the next part is here.
    pieces: Vec<Bytes>,
    held: usize,
    /// Once there is more than one part.
    multipart: Option<Multipart>,
    parts: Vec<PartId>,
}

/// An object that is read.
pub(super) struct Pieces(BoxStream<'static, object_store::Result<Bytes>>);

impl Bucket {
    /// `machine_region`: where this machine is.
    ///
    /// # Errors
    /// What of the settings makes no client.
    pub(super) fn new(
        s3: &S3,
        machine_region: Option<&str>,
        credentials: &Credentials,
        max_bytes: u64,
    ) -> Result<Self, String> {
        let region = s3.region.as_deref().or(machine_region).unwrap_or(ANY_REGION);
        let keys =
            Keys { credentials: credentials.clone(), upstream: Arc::new(identity(s3, region)?) };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&s3.bucket)
            .with_region(region)
            .with_credentials(Arc::new(keys))
            .with_http_connector(Wire)
            .with_retry(RetryConfig {
                max_retries: RETRIES,
                retry_timeout: RETRY_FOR,
                ..RetryConfig::default()
            })
            // One object at a time goes, and not every server knows the other call.
            .with_disable_bulk_delete(true);
        builder = match &s3.endpoint {
            Some(endpoint) => {
                builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http:"))
            }
            // A dot in the name would be one in the host, for which there is no certificate.
            None => builder.with_virtual_hosted_style_request(!s3.bucket.contains('.')),
        };
        let store = builder.build().map_err(|error| format!("files_s3_bucket: {error}"))?;
        let part_bytes = PART.max(max_bytes.div_ceil(MAX_PARTS));
        Ok(Self(Arc::new(Shared {
            store,
            part_bytes: usize::try_from(part_bytes).map_err(|error| error.to_string())?,
            orphans: Mutex::default(),
        })))
    }

    pub(super) fn begin(&self, place: &str) -> Result<Draft, String> {
        Ok(Draft {
            bucket: self.0.clone(),
            key: key(place)?,
            pieces: Vec::new(),
            held: 0,
            multipart: None,
            parts: Vec::new(),
        })
    }

    pub(super) async fn open(
        &self,
        place: &str,
        part: Range<u64>,
        length: u64,
    ) -> Result<Pieces, String> {
        let whole = part == (0..length);
        let range = (!whole).then_some(GetRange::Bounded(part));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = self.0.store.get_opts(&key(place)?, options).await.map_err(said)?;
        if found.meta.size != length {
            return Err(format!("{place} has {} bytes and not {length}", found.meta.size));
        }
        Ok(Pieces(found.into_stream()))
    }

    pub(super) async fn remove(&self, place: &str) -> Result<Removed, String> {
        match self.0.store.delete(&key(place)?).await {
            Ok(()) => Ok(Removed::Now),
            Err(Error::NotFound { .. }) => Ok(Removed::Missing),
            Err(error) => Err(said(error)),
        }
    }

    /// Aborts the uploads whose callers are gone.
    pub(super) async fn tidy(&self) {
        let orphans = mem::take(&mut *self.0.orphans.lock());
        for orphan in orphans {
            self.0.abort(orphan).await;
        }
    }
}

impl Shared {
    /// Gives up an upload in parts; if that fails, `tidy` tries again.
    async fn abort(&self, multipart: Multipart) {
        match self.store.abort_multipart(&multipart.key, &multipart.id).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                let error = said(error);
                tracing::warn!(%error, "an upload could not be aborted; it is tried again");
                self.leave(multipart);
            }
        }
    }

    fn leave(&self, multipart: Multipart) {
        let mut orphans = self.orphans.lock();
        if orphans.len() < MAX_ORPHANS {
            orphans.push(multipart);
        }
    }
}

impl Draft {
    pub(super) async fn write(&mut self, mut piece: Bytes) -> Result<(), String> {
        while !piece.is_empty() {
            // Sent when more comes: what is last may be shorter, and what is all needs no parts.
            if self.held == self.bucket.part_bytes {
                self.send_part().await?;
            }
            let fits = piece.len().min(self.bucket.part_bytes - self.held);
            self.held += fits;
            self.pieces.push(piece.split_to(fits));
        }
        Ok(())
    }

    fn payload(&mut self) -> PutPayload {
        self.held = 0;
        mem::take(&mut self.pieces).into_iter().collect()
    }

    async fn send_part(&mut self) -> Result<(), String> {
        let multipart = match &self.multipart {
            Some(multipart) => multipart.clone(),
            None => {
                let id = self.bucket.store.create_multipart(&self.key).await.map_err(said)?;
                self.multipart.insert(Multipart { key: self.key.clone(), id }).clone()
            }
        };
        let payload = self.payload();
        let (store, at) = (&self.bucket.store, self.parts.len());
        let sent = store.put_part(&multipart.key, &multipart.id, at, payload).await;
        self.parts.push(sent.map_err(said)?);
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), String> {
        if self.multipart.is_none() {
            let payload = self.payload();
            return self.bucket.store.put(&self.key, payload).await.map(drop).map_err(said);
        }
        self.send_part().await?;
        if let Some(multipart) = &self.multipart {
            let parts = mem::take(&mut self.parts);
            let store = &self.bucket.store;
            store.complete_multipart(&multipart.key, &multipart.id, parts).await.map_err(said)?;
        }
        self.multipart = None;
        Ok(())
    }

    pub(super) async fn discard(mut self) {
        if let Some(multipart) = self.multipart.take() {
            self.bucket.abort(multipart).await;
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(multipart) = self.multipart.take() {
            self.bucket.leave(multipart);
        }
    }
}

impl Pieces {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        self.0.next().await.transpose().map_err(said)
    }
}

/// The name of the object at `place`.
fn key(place: &str) -> Result<Path, String> {
    if !files::is_within(place) {
        return Err(format!("{place:?} is no place of a file"));
    }
    Path::parse(place).map_err(|error| error.to_string())
}

/// The error for the log. Of the bucket's own words only the code: the rest may hold what was signed, and by whom.
fn said(error: Error) -> String {
    let text = error.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
    match code.filter(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())) {
        Some(code) => format!("the bucket answered {code}"),
        None => redact(&text).unwrap_or_else(|| "the bucket gave no reason".to_owned()),
    }
}

/// Who signs: the keys of the settings or, without any, the machine's. They are looked up as Bedrock's are.
fn identity(s3: &S3, region: &str) -> Result<Upstream, String> {
    let mut settings = vec![("region_name".to_owned(), Secret::new(region))];
    if let Some((id, secret)) = &s3.keys {
        settings.push(("aws_access_key_id".to_owned(), id.clone()));
        settings.push(("aws_secret_access_key".to_owned(), secret.clone()));
    }
    let kind = providers::find("bedrock").ok_or("no provider signs its calls")?;
    Upstream::new(&Provider {
        instance: "files_s3",
        kind,
        base_url: s3.endpoint.as_deref().unwrap_or("https://s3.amazonaws.com"),
        api_key: None,
        headers: &[],
        client_settings: &settings,
        max_retries: 0,
        first_byte_timeout: SILENCE,
        idle_timeout: SILENCE,
        address: None,
    })
    .map_err(|_| "files_s3_endpoint_url: not a URL".to_owned())
}

/// The keys that calls are signed with, valid now.
struct Keys {
    credentials: Credentials,
    upstream: Arc<Upstream>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let keys = self.credentials.aws(&self.upstream).await;
        let keys = keys.map_err(|error| Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: keys.access_key_id.expose().to_owned(),
            secret_key: keys.secret_access_key.expose().to_owned(),
            token: keys.session_token.as_ref().map(|token| token.expose().to_owned()),
        }))
    }
}

/// An HTTP client without redirects and without proxies: what is signed goes to the address that is configured.
#[derive(Debug)]
struct Wire;

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .user_agent(concat!("otari/", env!("CARGO_PKG_VERSION")))
            .build();
        let client =
            client.map_err(|error| Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(client))
    }
}
