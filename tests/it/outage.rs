//! The database goes away and comes back: requests go on, readiness says so, no row is lost.

use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::postgres::Cluster;
use crate::support::provider::Provider;
use crate::support::{COST, ask, ask_streamed, eventually, priced};

#[tokio::test]
async fn requests_go_on_while_postgresql_is_down_and_their_rows_come_later() {
    let server = Cluster::new();
    let provider = Provider::streams(["Hel", "lo"]);
    let start = Gateway::start().postgres_at(server.database());
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(gateway.usage(1).await.len(), 1);

    server.stop();
    for _ in 0..20 {
        gateway.chat(&key, &ask()).await.expect(200);
        let stream = gateway.stream(&key, &ask_streamed()).await;
        assert!(stream.text().await.expect("a whole stream").ends_with("data: [DONE]\n\n"));
    }
    let ready = gateway.get("/health/readiness").await.expect(503).json();
    assert_eq!(ready["detail"]["database"], "unavailable", "readiness tells the truth: {ready}");
    gateway.get("/health").await.expect(200);

    server.start();
    eventually("ready again", async || {
        let ready = gateway.get("/health/readiness").await;
        (ready.status == 200).then_some(())
    })
    .await;
    let rows = eventually("all rows", async || {
        let rows = gateway.all_usage().await;
        (rows.len() >= 41).then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), 41, "every answer has one row, none has two");
    assert!(rows.iter().all(|row| row["status"] == json!("success")), "{rows:?}");
    let spent = gateway.settled("u").await;
    assert!((spent - 41.0 * COST).abs() < 1e-9, "spend is exact: {spent}");
}
