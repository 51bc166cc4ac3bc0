//! Bounds as the configuration sets them, on the real program: something waits, or is refused by the name of its
//! key, and remora goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use remora::proto::cache::PutRequest;
use remora::proto::cache::manifests_client::ManifestsClient;
use remora::proto::content::content_client::ContentClient;
use remora::proto::content::{AbortRequest, WriteAction, WriteContentRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::support::sidecar::{PATIENCE, Sidecar};

/// An HTTP/2 client begins with this; the server answers with its settings.
const HTTP2: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HTTP1: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
/// A request whose body the server waits for: it says so with a first answer.
const UNFINISHED: &str = "PUT / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";

fn start(configuration: &str) -> Sidecar {
    let builder = Sidecar::builder().flag("control", "tcp://127.0.0.1:0");
    let file = builder.dir().join("remora.toml");
    std::fs::write(&file, configuration).unwrap();
    builder.flag("config", file.display().to_string()).start()
}

/// Whether a server says anything within `patience`.
fn answers(mut client: &TcpStream, patience: Duration) -> bool {
    client.set_read_timeout(Some(patience)).unwrap();
    client.read(&mut [0]).is_ok_and(|read| read > 0)
}

#[test]
fn one_connection_too_many_waits_for_another_to_end() {
    let sidecar = start("limits.max_connections = 2");
    for (endpoint, greeting) in [("control", HTTP2), ("content", HTTP2), ("s3", UNFINISHED)] {
        let connect = || {
            let mut client = TcpStream::connect(sidecar.host_port(endpoint)).unwrap();
            client.write_all(greeting.as_bytes()).unwrap();
            client
        };
        let mut clients = vec![connect(), connect()];
        assert!(clients.iter().all(|client| answers(client, PATIENCE)), "{endpoint}");
        let one_more = connect();
        assert!(!answers(&one_more, Duration::from_millis(300)), "{endpoint} answers a third");
        clients.pop();
        assert!(answers(&one_more, PATIENCE), "{endpoint} does not go on");
    }
}

/// Whether a server closes a connection within `patience`.
fn closes(mut client: &TcpStream, patience: Duration) -> bool {
    client.set_read_timeout(Some(patience)).unwrap();
    client.read_to_end(&mut Vec::new()).is_ok()
}

#[test]
fn idle_connections_make_room_the_longest_idle_first() {
    let sidecar = start("limits.max_connections = 2");
    let connect = || {
        let mut client = TcpStream::connect(sidecar.host_port("s3")).unwrap();
        client.write_all(HTTP1.as_bytes()).unwrap();
        assert!(answers(&client, Duration::from_secs(2)), "it has to wait");
        client
    };
    let clients = [connect(), connect(), connect(), connect()];
    // There are two places, and one of them is kept free for the next connection.
    assert!(clients[..2].iter().all(|client| closes(client, Duration::from_secs(1))));
    assert!(!closes(&clients[3], Duration::from_millis(200)));
}

/// Writes to an ingest, and commits it where `commit` says so.
async fn write(mut client: ContentClient<Channel>, reference: &str, offset: i64, data: &[u8], commit: bool) -> Result<(), Status> {
    let of = |action: WriteAction, offset: i64| WriteContentRequest {
        action: action as i32,
        r#ref: reference.to_owned(),
        offset,
        ..Default::default()
    };
    let mut messages = vec![WriteContentRequest { data: data.to_vec().into(), ..of(WriteAction::Write, offset) }];
    if commit {
        messages.push(of(WriteAction::Commit, offset + i64::try_from(data.len()).unwrap()));
    }
    let mut answers = client.write(tokio_stream::iter(messages)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

#[track_caller]
fn assert_refused(outcome: Result<(), Status>, key: &str) {
    let refused = outcome.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains(key), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_a_bound_is_refused_with_the_name_of_its_key() {
    let sidecar = start("[limits]\nmax_open_ingests = 1\nmax_spool_bytes = '64KiB'\nmax_manifest_bytes = '1KiB'\n");
    let channel = Endpoint::from_shared(format!("http://{}", sidecar.host_port("content"))).unwrap().connect_lazy();
    let mut content = ContentClient::new(channel.clone());
    let mut manifests = ManifestsClient::new(channel);

    write(content.clone(), "first", 0, &[1; 48 << 10], false).await.unwrap();
    assert_refused(write(content.clone(), "second", 0, &[2; 9], false).await, "limits.max_open_ingests");
    assert_refused(write(content.clone(), "first", 48 << 10, &[1; 32 << 10], false).await, "limits.max_spool_bytes");
    content.abort(AbortRequest { r#ref: "first".to_owned() }).await.unwrap();
    write(content, "second", 0, &[2; 64 << 10], true).await.unwrap();

    let mut put = async |length: usize| {
        let document = format!("{}{}", r#"{"layers":[],"records":[]}"#, " ".repeat(length - 26));
        manifests.put(PutRequest { name: "app".to_owned(), document: document.into(), ..Default::default() }).await.map(drop)
    };
    assert_refused(put(1025).await, "limits.max_manifest_bytes");
    put(1024).await.unwrap();
}
