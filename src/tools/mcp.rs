//! MCP servers: one session with each for a request, by the official SDK, over streamable HTTP or, where a server does
//! not speak that, over the transport that was before it (`sse`).
//!
//! A server is somebody else's: its address is judged, its redirects are not taken, what it says has a size and a time.

mod sse;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use http::HeaderValue;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::tools::result::{self, Failure};
use otari_filters::tools::{McpServer, Offer, Owner, ToolCall, ToolDef};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, Implementation,
    ProtocolVersion,
};
use rmcp::service::{ClientInitializeError, RunningService};
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransportConfig, StreamableHttpError,
};
use rmcp::transport::{IntoTransport, StreamableHttpClientTransport};
use rmcp::{RoleClient, ServiceError};
use serde_json::{Map, Value};
use tokio::time::timeout;

use self::sse::{SseTransport, Unsent};
use super::{Kit, forbidden};
use crate::safety::{Admitted, Safety};

/// For one step with a server: the connection and its greeting, its list of tools, a call.
const STEP: Duration = Duration::from_secs(30);
/// For the last word to a server.
const GOODBYE: Duration = Duration::from_secs(3);
/// Servers that are connected at once.
const CONNECTING: usize = 4;
/// The longest answer, and the longest event of a stream.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// How much of a page that tells of an error is read.
const MAX_ERROR_BYTES: usize = 4 << 10;
/// Tools of one server: more than a model can choose from.
const MAX_TOOLS: usize = 512;
/// Their definitions, as JSON: they go along with every round.
const MAX_DEFINITIONS_BYTES: usize = 1 << 20;

/// One session with a server.
#[async_trait]
pub(super) trait McpClient: Send + Sync {
    /// The first page of its tools.
    async fn tools(&self) -> Result<Vec<ToolDef>, Failure>;
    /// Calls one, by the server's own name of it.
    async fn call(&self, tool: &str, arguments: Map<String, Value>) -> Result<String, Failure>;
    /// Ends the session.
    async fn close(self: Box<Self>);
}

/// The sessions of one request.
pub(super) struct Servers {
    sessions: Vec<Box<dyn McpClient>>,
    owners: BTreeMap<String, Owner>,
}

/// Judges the addresses of all servers, in their order.
pub(super) async fn admit(kit: &Kit, servers: &[McpServer]) -> Result<Vec<Admitted>, Rejection> {
    let mut admitted = Vec::with_capacity(servers.len());
    for server in servers {
        let has_token = server.authorization_token.is_some();
        let one = kit.safety.admit(&kit.config.servers, &server.url, has_token).await;
        admitted.push(one.map_err(forbidden)?);
    }
    Ok(admitted)
}

impl Servers {
    /// Connects all servers and asks for their tools. What the model is offered is in the order of the servers.
    ///
    /// # Errors
    /// `invalid_value` for an address that may not be gone to; `tool_unavailable` when a server does not answer.
    pub(super) async fn open(
        kit: &Arc<Kit>,
        servers: &[McpServer],
    ) -> Result<(Self, Offer), Rejection> {
        let admitted = admit(kit, servers).await?;
        let pairs: Vec<_> = servers.iter().cloned().zip(admitted).collect();
        let connecting = stream::iter(pairs).map(|(server, admitted)| {
            let safety = kit.safety.clone();
            async move {
                let connected = connect(&safety, &server, &admitted).await;
                connected.map_err(|failure| unavailable(&server, &failure)).map(|c| (server, c))
            }
        });
        let connected: Vec<Result<_, Rejection>> = connecting.buffered(CONNECTING).collect().await;
        let (mut sessions, mut listed, mut refused) = (Vec::new(), Vec::new(), None);
        for one in connected {
            match one {
                Ok((server, (session, tools))) => {
                    sessions.push(session);
                    listed.push((server, tools));
                }
                Err(rejection) => refused = refused.or(Some(rejection)),
            }
        }
        let (offer, owners) = Offer::of_servers(&listed);
        let servers = Self { sessions, owners };
        match refused {
            None => Ok((servers, offer)),
            Some(rejection) => {
                servers.close().await;
                Err(rejection)
            }
        }
    }

    /// Calls a tool.
    pub(super) async fn call(&self, call: &ToolCall) -> Result<String, Failure> {
        let owner = self.owners.get(&call.name).ok_or(Failure::Unknown)?;
        let session = self.sessions.get(owner.server).ok_or(Failure::Unknown)?;
        session.call(&owner.tool, call.arguments.clone()).await
    }

    /// Ends the sessions, all at once.
    pub(super) async fn close(self) {
        let mut closing: Vec<_> =
            self.sessions.into_iter().map(|session| session.close()).collect();
        while !closing.is_empty() {
            let some = closing.drain(..closing.len().min(CONNECTING * 4));
            join_all(some).await;
        }
    }
}

fn unavailable(server: &McpServer, failure: &Failure) -> Rejection {
    let name = &server.name;
    let why = match failure {
        Failure::Timeout => "did not answer in time".to_owned(),
        Failure::Status(status) => format!("answered with status {status}"),
        Failure::BadAnswer => "does not speak MCP over HTTP".to_owned(),
        Failure::Forbidden => "wants its messages sent to an address other than its own".to_owned(),
        Failure::TooLarge => "lists more tools than a request can offer".to_owned(),
        _ => "could not be reached".to_owned(),
    };
    let message = format!(
        "MCP server '{name}' {why}. Check its `url` and `authorization_token`, or remove it from `mcp_servers`."
    );
    Rejection::new(Code::ToolUnavailable, message).because(format!("{failure:?}"))
}

type Connected = (Box<dyn McpClient>, Vec<ToolDef>);

async fn connect(
    safety: &Safety,
    server: &McpServer,
    admitted: &Admitted,
) -> Result<Connected, Failure> {
    let greeting = timeout(STEP, greet(safety, server, admitted));
    let running = greeting.await.map_err(|_| Failure::Timeout)??;
    let session: Box<dyn McpClient> = Box::new(Sdk { running });
    match session.tools().await {
        Ok(tools) => Ok((session, tools)),
        Err(failure) => {
            session.close().await;
            Err(failure)
        }
    }
}

/// Says hello over the newer transport and, to a server that does not know what that is, over the older one.
async fn greet(
    safety: &Safety,
    server: &McpServer,
    admitted: &Admitted,
) -> Result<Running, Failure> {
    let client = safety.client(admitted).map_err(|_| Failure::Unreachable)?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(admitted.url.as_str())
        .max_sse_event_size(MAX_ANSWER_BYTES)
        .max_json_response_size(MAX_ANSWER_BYTES)
        .max_error_response_size(MAX_ERROR_BYTES)
        // What a session has forgotten, such as what a call did, is not done again behind the model's back.
        .reinit_on_expired_session(false);
    // A stream that broke is not taken up again: the call fails, and the model decides.
    config.retry_config = Arc::new(NeverRetry::default());
    let mut bearer = None;
    if let Some(token) = &server.authorization_token {
        config = config.auth_header(token.expose());
        let value = format!("Bearer {}", token.expose());
        let mut value = HeaderValue::from_str(&value).map_err(|_| Failure::Unreachable)?;
        value.set_sensitive(true);
        bearer = Some(value);
    }
    let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
    let refused = match begin(transport).await {
        Err(Failure::Status(status @ (400 | 404 | 405))) => Failure::Status(status),
        greeted => return greeted,
    };
    match SseTransport::open(client, &admitted.url, bearer).await? {
        Some(transport) => begin(transport).await,
        None => Err(refused),
    }
}

type Running = RunningService<RoleClient, ClientConfig>;

async fn begin<T, E, A>(transport: T) -> Result<Running, Failure>
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let gateway = Implementation::new("otari", env!("CARGO_PKG_VERSION"));
    let greeting = ClientConfig::new(ClientCapabilities::default(), gateway)
        .with_protocol_version(ProtocolVersion::V_2025_11_25);
    rmcp::serve_client(greeting, transport).await.map_err(|error| ungreeted(&error))
}

/// The official SDK's session.
struct Sdk {
    running: Running,
}

#[async_trait]
impl McpClient for Sdk {
    async fn tools(&self) -> Result<Vec<ToolDef>, Failure> {
        let asked = timeout(STEP, self.running.peer().list_tools(None)).await;
        let listed = asked.map_err(|_| Failure::Timeout)?.map_err(|error| failure(&error))?;
        if listed.tools.len() > MAX_TOOLS {
            return Err(Failure::TooLarge);
        }
        let mut bytes = 0;
        let mut tools = Vec::with_capacity(listed.tools.len());
        for tool in listed.tools {
            let schema = Value::Object((*tool.input_schema).clone());
            let about = tool.description.map(|about| about.into_owned());
            bytes += schema.to_string().len() + about.as_ref().map_or(0, String::len);
            tools.push(ToolDef::new(tool.name, about, schema));
        }
        if bytes > MAX_DEFINITIONS_BYTES { Err(Failure::TooLarge) } else { Ok(tools) }
    }

    async fn call(&self, tool: &str, arguments: Map<String, Value>) -> Result<String, Failure> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let called = timeout(STEP, self.running.peer().call_tool_once(params)).await;
        let answer = called.map_err(|_| Failure::Timeout)?.map_err(|error| failure(&error))?;
        let CallToolResponse::Complete(answer) = answer else {
            let more = "it asks for more than a call, which this gateway does not give";
            return Err(Failure::Said(more.to_owned()));
        };
        let blocks: Result<Vec<Value>, _> =
            answer.content.iter().map(serde_json::to_value).collect();
        let blocks = blocks.map_err(|_| Failure::BadAnswer)?;
        Ok(result::mcp(&blocks, answer.is_error == Some(true)))
    }

    async fn close(mut self: Box<Self>) {
        // Whether the server heard of it does not matter: sessions end by themselves.
        let _ = self.running.close_with_timeout(GOODBYE).await;
    }
}

fn ungreeted(error: &ClientInitializeError) -> Failure {
    match error {
        ClientInitializeError::TransportError { error, .. } => transport(error.error.as_ref()),
        ClientInitializeError::ConnectionClosed(_) | ClientInitializeError::Cancelled => {
            Failure::Unreachable
        }
        ClientInitializeError::JsonRpcError(said) => Failure::Said(said.message.to_string()),
        _ => Failure::BadAnswer,
    }
}

fn failure(error: &ServiceError) -> Failure {
    match error {
        ServiceError::McpError(said) => Failure::Said(said.message.to_string()),
        ServiceError::TransportSend(error) => transport(error.error.as_ref()),
        ServiceError::Timeout { .. } => Failure::Timeout,
        ServiceError::UnexpectedResponse => Failure::BadAnswer,
        _ => Failure::Unreachable,
    }
}

fn transport(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Failure {
    use StreamableHttpError as E;
    if let Some(Unsent(failure)) = error.downcast_ref() {
        return failure.clone();
    }
    let Some(error) = error.downcast_ref::<E<reqwest::Error>>() else {
        return Failure::Unreachable;
    };
    match error {
        E::HttpStatus(error) => Failure::Status(error.status),
        E::AuthRequired(_) => Failure::Status(401),
        E::InsufficientScope(_) => Failure::Status(403),
        E::SessionExpired => Failure::Status(404),
        E::ResponseBodyTooLarge { .. } => Failure::TooLarge,
        E::Client(error) if error.is_timeout() => Failure::Timeout,
        E::Client(error) => {
            error.status().map_or(Failure::Unreachable, |status| Failure::Status(status.as_u16()))
        }
        E::UnexpectedServerResponse(said) => {
            status_in(said).map_or(Failure::BadAnswer, Failure::Status)
        }
        E::UnexpectedContentType(_) | E::Deserialize(_) => Failure::BadAnswer,
        E::UnexpectedEndOfStream | E::Sse(_) => Failure::BadAnswer,
        _ => Failure::Unreachable,
    }
}

/// The status that the SDK has put into its words for a refusal; nothing else of them is shown.
fn status_in(said: &str) -> Option<u16> {
    said.strip_prefix("HTTP ")?.get(..3)?.parse().ok()
}
