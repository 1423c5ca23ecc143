//! A platform for a gateway in connected mode: that of `otari::mock::platform`, on a thread of its own, which a test
//! scripts, takes down and brings back on the same port.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;

use otari::mock::platform::{self, BASE_PATH, Rule, Script, Seen, Then};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;

use super::eventually;
use super::provider::Provider;

/// The gateway token that every platform under test accepts; it must never reach a provider, a caller or a log.
pub(crate) const GATEWAY_TOKEN: &str = "gw_for-the-tests-0123456789";

/// A caller's token; the platform accepts any.
pub(crate) const USER_TOKEN: &str = "tk_for-the-tests-0123456789";

/// The provider key of the attempt with this place in a plan.
pub(crate) fn api_key(attempt: usize) -> String {
    format!("sk-of-attempt-{attempt}")
}

/// A platform on a port of loopback that stays its own while it is down; stops when dropped. What it saw, its
/// violations and its duplicates are those of [`platform::Platform`].
pub(crate) struct Platform {
    platform: platform::Platform,
    script: Script,
    /// Bound and never listening: nobody else gets the port, and connections are refused while it is down.
    _port: Socket,
    addr: SocketAddr,
    running: Option<(Arc<Notify>, JoinHandle<()>)>,
}

impl Deref for Platform {
    type Target = platform::Platform;

    fn deref(&self) -> &Self::Target {
        &self.platform
    }
}

impl Platform {
    /// A platform that accepts [`GATEWAY_TOKEN`] and has no rules.
    pub(crate) async fn start() -> Self {
        let script = Script { gateway_token: Some(GATEWAY_TOKEN.into()), ..Script::default() };
        let port = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let addr = port.local_addr().ok().and_then(|addr| addr.as_socket());
        let addr = addr.expect("a bound socket has an address");
        let platform = platform::Platform::new(script.clone());
        let mut started = Self { platform, script, _port: port, addr, running: None };
        started.restart();
        started
    }

    /// What `PLATFORM_BASE_URL` takes.
    pub(crate) fn base(&self) -> String {
        format!("http://{}{BASE_PATH}", self.addr)
    }

    /// Changes the script; counters of `first` start anew.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script);
        self.platform.script(self.script.clone());
    }

    /// From now on `model` is resolved to these attempts, each a provider's name and where it is. Their ids are
    /// `att-a-1`, `att-b-1` in the first plan, `att-a-2` in the next; their keys those of [`api_key`].
    pub(crate) fn plan(&mut self, model: &str, attempts: &[(&str, &Provider)]) {
        let attempts = attempts.iter().enumerate().map(|(at, (name, provider))| {
            json!({"provider": name, "api_base": provider.base(), "api_key": api_key(at)})
        });
        self.answer(model, Then::plan(attempts));
    }

    /// From now on this is the answer to whoever asks for `model`.
    pub(crate) fn answer(&mut self, model: &str, then: Then) {
        let rule = Rule::model(model, then);
        self.edit(|script| {
            script.resolve.retain(|known| known.when != rule.when);
            script.resolve.push(rule);
        });
    }

    /// Waits until this many reports were accepted, and returns these.
    pub(crate) async fn eventually_reports(&self, count: usize) -> Vec<Seen> {
        eventually("reports at the platform", async || {
            let accepted: Vec<Seen> = self.reports().into_iter().filter(Seen::accepted).collect();
            (accepted.len() >= count).then_some(accepted)
        })
        .await
    }

    /// Panics with whatever the gateway did wrong, reports that were accepted twice included.
    pub(crate) fn assert_clean(&self) {
        let (violations, duplicates) = (self.violations(), self.duplicates());
        assert!(
            violations.is_empty(),
            "the gateway broke the platform's protocol: {violations:#?}"
        );
        assert!(duplicates.is_empty(), "reported more than once: {duplicates:?}");
    }

    /// Takes the platform down: connections end, new ones are refused. What it saw stays.
    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.notify_one();
            // If it panicked it has said so on stderr; the test fails by what it then misses.
            let _ = thread.join();
        }
    }

    /// Brings it back, on the same port and with the same script.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let socket = bound(self.addr);
        socket.listen(1024).expect("the port is ours");
        socket.set_nonblocking(true).expect("a listener can be made non-blocking");
        let listener: TcpListener = socket.into();
        let (platform, stop) = (self.platform.clone(), Arc::new(Notify::new()));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the platform").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener);
                let listener = listener.expect("a listener inside a runtime");
                platform.serve(listener, stopped.notified()).await.expect("the listener stays");
            });
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket bound to `addr` that lets others bind to it as long as none listens.
fn bound(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option of every socket");
    socket.bind(&addr.into()).expect("a port on loopback");
    socket
}

mod tests {
    use serde_json::Value;

    use super::*;

    /// Asks as a gateway does; `None` when there is no answer.
    async fn post(platform: &Platform, path: &str, body: &Value) -> Option<Value> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request =
            http.post(platform.base() + path).header("X-Gateway-Token", GATEWAY_TOKEN);
        if path.ends_with("/resolve") {
            request = request.header("X-User-Token", USER_TOKEN);
        }
        let answer = request.json(body).send().await.ok()?.bytes().await.ok()?;
        Some(serde_json::from_slice(&answer).unwrap_or_default())
    }

    #[tokio::test]
    async fn plans_lead_to_providers() {
        let (a, b) = (Provider::streams(["a"]), Provider::streams(["b"]));
        let mut platform = Platform::start().await;
        platform.plan("gpt-4o", &[("openai", &b)]);
        platform.plan("gpt-4o", &[("openai", &a), ("azure", &b)]);
        let asked = json!({"model": "gpt-4o"});
        let plan = post(&platform, "/gateway/provider-keys/resolve", &asked).await;
        let attempts = plan.expect("an answer")["attempts"].clone();
        assert_eq!(
            attempts[0]["api_base"],
            a.base(),
            "the later plan for a model replaces the first"
        );
        assert_eq!(attempts[1]["attempt_id"], "att-b-1");
        assert_eq!(
            (&attempts[1]["provider"], &attempts[1]["api_key"]),
            (&json!("azure"), &json!(api_key(1)))
        );
        for id in ["att-b-1", "att-a-1"] {
            let report = json!({"correlation_id": id, "status": "error", "is_final_attempt": true});
            post(&platform, "/gateway/usage", &report).await.expect("an answer");
        }
        let reports = platform.eventually_reports(2).await;
        let ids: Vec<String> = reports.iter().map(Seen::correlation_id).collect();
        assert_eq!(ids, ["att-b-1", "att-a-1"], "in the order in which they came");
        platform.assert_clean();
    }

    #[tokio::test]
    async fn it_goes_down_and_comes_back_with_what_it_knows() {
        let mut platform = Platform::start().await;
        platform.edit(|script| script.usage = vec![Rule::first(1, Then::status(500))]);
        let report = |n: u32| json!({"correlation_id": format!("a-{n}"), "status": "error", "is_final_attempt": true});
        let base = platform.base();
        assert!(post(&platform, "/gateway/usage", &report(1)).await.is_some());
        platform.stop();
        assert!(
            post(&platform, "/gateway/usage", &report(2)).await.is_none(),
            "refused while down"
        );
        platform.restart();
        assert_eq!(platform.base(), base);
        assert!(post(&platform, "/gateway/usage", &report(3)).await.is_some());
        assert_eq!(platform.reports().len(), 2, "what came before is still known");
        let accepted = platform.eventually_reports(1).await;
        assert_eq!(accepted[0].correlation_id(), "a-3", "the script was not started anew");
        let broken = std::panic::AssertUnwindSafe(|| platform.assert_clean());
        std::panic::catch_unwind(broken).expect_err("no plan knows these attempts");
    }
}
