//! Providers whose calls are signed or want a token: with what the platform gives, and nothing of the machine.

use otari::mock::platform::Then;
use serde_json::{Value, json};

use super::{Api, Scene};
use crate::support::mock::Mock;

/// AWS's own example of a key. The built-in provider checks signatures that are made with it.
const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[tokio::test]
async fn bedrock_is_called_with_the_platforms_keys_alone() {
    let mock = Mock::start();
    // Keys of the machine: were they used, the calls with a wrong key would work.
    let own =
        [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
    let start = |start| {
        own.iter().fold(start, |start: crate::support::gateway::Builder, (name, value)| {
            start.env(name, value)
        })
    };
    let mut scene = Scene::with(start).await;
    let region = json!({"region_name": "us-east-1"});
    let mut keys = region.clone();
    keys["aws_access_key_id"] = json!(ID);
    for (api_key, extra, status, told) in [
        (SECRET, &keys, 200, "att-a success final"),
        ("another-secret", &keys, 502, "att-a error final http_403"),
        ("a-bedrock-key", &region, 200, "att-a success final"),
    ] {
        let attempt = json!({"provider": "bedrock", "api_base": mock.url(""), "api_key": api_key, "extra_params": extra});
        scene.platform.answer("m", Then::plan([attempt]));
        for api in Api::ALL {
            for body in [api.ask("m"), api.ask_streamed("m")] {
                let answer = scene.send(api, &body).await.expect(status);
                assert!(!answer.text().contains(api_key), "{}", answer.text());
                assert_eq!(scene.told(1).await, [told], "{api:?}");
            }
        }
    }
    let requests = mock.requests(&scene.gateway).await;
    let path = |request: &Value| request["path"].as_str().unwrap_or_default().to_owned();
    assert!(
        requests.iter().all(|request| path(request).starts_with("/model/m/converse")),
        "{requests:#?}"
    );
    let log = scene.gateway.log();
    assert!(!log.contains(SECRET) && !log.contains("a-bedrock-key"), "no secret in the log");
    scene.finish().await;
}
