//! Deleting messages by their sequence.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use async_nats::jetstream::stream::Config;
use broker::delete::delete_message;
use futures::StreamExt;
use sandbox::{NatsOptions, NatsServer};

#[tokio::test]
async fn a_message_is_deleted_once_and_its_block_is_not_written_again() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let client = async_nats::connect(server.client_url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    let config = Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    for _ in 0..3 {
        jetstream.publish("s", "payload".into()).await.unwrap().await.unwrap();
    }
    let mut requests = client.subscribe("$JS.API.STREAM.MSG.DELETE.>").await.unwrap();
    for (sequence, was_there) in [(2, true), (2, false), (1, true), (9, false)] {
        assert_eq!(delete_message(&jetstream, "S", sequence).await.unwrap(), was_there, "{sequence}");
        // The server would overwrite the message otherwise, and sync the whole block.
        let request: serde_json::Value = serde_json::from_slice(&requests.next().await.unwrap().payload).unwrap();
        assert_eq!(request, serde_json::json!({ "seq": sequence, "no_erase": true }));
    }
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1);
    let error = delete_message(&jetstream, "MISSING", 1).await.unwrap_err();
    assert!(error.to_string().contains("stream not found"), "{error}");
}
