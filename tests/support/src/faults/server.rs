//! The proxy's listener and its connections, in a thread of their own: the tests may be synchronous.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ETAG, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::passage::{self, Body, Harm};
use super::rules::Fault;
use super::{Link, Shared, passable};

/// What S3 says to those who ask too often.
const SLOW_DOWN: &str =
    r#"<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"#;
/// What it says to those who ask for what is not there.
const GONE: &str = r#"<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>It is not there.</Message></Error>"#;
const WRONG_ETAG: HeaderValue = HeaderValue::from_static("\"00000000000000000000000000000000\"");

/// Ends a connection with a reset in place of an orderly end.
#[derive(Debug, Clone, Default)]
pub(super) struct Cut(Arc<AtomicBool>);

impl Cut {
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A client's connection.
struct Socket {
    stream: TokioIo<TcpStream>,
    cut: Cut,
}

/// Runs the proxy until the sender of `dropped` is gone.
pub(super) fn run(listener: std::net::TcpListener, shared: Arc<Shared>, dropped: oneshot::Receiver<()>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, shared) => {}
                _ = dropped => {}
            }
        });
    });
}

/// Runs a task for as long as the proxy's runtime lives, which owns it.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(Handle::current().spawn(task));
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("nonblocking");
    let mut listener = Some(TcpListener::from_std(listener).expect("listener"));
    let mut link = shared.link.subscribe();
    while link.wait_for(|link| *link != Link::Refused).await.is_ok() {
        let listening = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.expect("the port is free still"),
        };
        loop {
            tokio::select! {
                Ok((stream, _)) = listening.accept() => spawn(serve(stream, Arc::clone(&shared))),
                _ = link.wait_for(|link| *link == Link::Refused) => break,
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let cut = Cut::default();
    let mut link = shared.link.subscribe();
    let socket = Socket { stream: TokioIo::new(stream), cut: cut.clone() };
    let refused = cut.clone();
    let answer = service_fn(move |request| answer(request, Arc::clone(&shared), cut.clone()));
    tokio::select! {
        // Its errors are those that are made here, and clients that went away.
        _ = hyper::server::conn::http1::Builder::new().serve_connection(socket, answer) => {}
        _ = link.wait_for(|link| *link == Link::Refused) => refused.cut(),
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>, cut: Cut) -> io::Result<Response<Body>> {
    let mut link = shared.link.subscribe();
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    shared.count(kind(request.method(), &path));
    let head = request.method() == Method::HEAD;
    let fault = shared.fault(request.method().as_str(), &path);
    if let Some(fault) = fault.filter(|fault| *fault != Fault::DarkAnswer) {
        shared.count(fault.name());
    }
    if fault == Some(Fault::Dark) {
        shared.link.send_replace(Link::Dark);
    }
    passable(&mut link).await;
    match fault {
        Some(Fault::SlowDown) => return refuse(request, StatusCode::SERVICE_UNAVAILABLE, SLOW_DOWN).await,
        Some(Fault::Gone) => return refuse(request, StatusCode::NOT_FOUND, GONE).await,
        _ => {}
    }
    let at_body = fault.filter(|fault| matches!(fault, Fault::Reset | Fault::Stall(_) | Fault::Truncate | Fault::Flip));
    let upload = at_body.filter(|fault| matches!(fault, Fault::Reset | Fault::Stall(_)) && !request.body().is_end_stream());
    let harm = upload.map(|fault| Harm { at: shared.offset(length(request.body())), fault });
    let request = request.map(|body| passage::pass(body, harm, link.clone(), cut.clone()));
    let mut response = ask(&shared, request).await?;
    if fault == Some(Fault::DarkAnswer) {
        shared.count(Fault::DarkAnswer.name());
        shared.link.send_replace(Link::Dark);
    }
    passable(&mut link).await;
    if fault == Some(Fault::WrongETag) && response.headers().contains_key(ETAG) {
        response.headers_mut().insert(ETAG, WRONG_ETAG);
    }
    let at_body = at_body.filter(|_| upload.is_none());
    if response.body().is_end_stream() || head {
        match at_body {
            Some(Fault::Reset) => {
                cut.cut();
                return Err(io::Error::other("reset by the proxy"));
            }
            Some(Fault::Stall(duration)) => tokio::time::sleep(duration).await,
            _ => {}
        }
        return Ok(response.map(|body| passage::pass(body, None, link, cut)));
    }
    let harm = at_body.map(|fault| Harm { at: shared.offset(length(response.body())), fault });
    Ok(response.map(|body| passage::pass(body, harm, link, cut)))
}

fn kind(method: &Method, path: &str) -> &'static str {
    match method.as_str() {
        "GET" if path.contains("list-type=") => "LIST",
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn length(body: &Incoming) -> u64 {
    body.size_hint().exact().unwrap_or_default()
}

/// The request is read to its end: what the client sees is the answer, and no broken connection.
async fn refuse(request: Request<Incoming>, status: StatusCode, why: &'static str) -> io::Result<Response<Body>> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
    }
    let response = Response::builder().status(status).header("content-type", "application/xml");
    response.body(passage::own(why)).map_err(io::Error::other)
}

/// One connection for each request: nothing that was cut short is ever used again.
async fn ask(shared: &Shared, request: Request<Body>) -> io::Result<Response<Incoming>> {
    let stream = TokioIo::new(TcpStream::connect(shared.upstream).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    spawn(async {
        // Its errors show at the request.
        let _ = connection.await;
    });
    sender.send_request(request).await.map_err(io::Error::other)
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.cut.0.load(Ordering::Acquire) {
            // What fails here was closed already.
            let _ = self.stream.inner().set_zero_linger();
        }
    }
}

impl hyper::rt::Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: hyper::rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
