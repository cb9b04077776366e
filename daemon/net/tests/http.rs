//! The HTTP server over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use net::http::{self, Handler, HttpLimits, StatusCode};
use net::{Config, TcpListener, run, sleep};

struct Server {
    address: SocketAddr,
    stop: Option<net::queue::OneshotSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(limits: HttpLimits) -> Server {
    let (told, tell) = mpsc::channel();
    let (stop, stopped) = net::queue::oneshot::<()>();
    let thread = std::thread::spawn(move || {
        run(Config::default(), async move {
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            told.send(listener.local_address()).unwrap();
            let handler: Handler = Rc::new(|request| {
                async move {
                    match request.uri().path() {
                        "/panic" => panic!("handler panicked"),
                        "/slow" => sleep(Duration::from_millis(50)).await,
                        "/large" => return http::text(StatusCode::OK, "text/plain", vec![b'x'; 20 << 20]),
                        _ => {}
                    }
                    let body = format!(
                        "{} {} {}",
                        request.method(),
                        request.uri().path(),
                        request.body().len()
                    );
                    http::text(StatusCode::OK, "text/plain", body)
                }
                .boxed_local()
            });
            let serving = http::serve(listener, handler, limits);
            futures::future::select(std::pin::pin!(serving), stopped).await;
        })
        .unwrap();
    });
    Server {
        address: tell.recv().unwrap(),
        stop: Some(stop),
        thread: Some(thread),
    }
}

impl Server {
    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends `request` and reads until the server closes.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // A server that refuses may close before it has read everything.
        let _ = stream.write_all(request);
        read_to_end(&mut stream)
    }
}

fn read_to_end(stream: &mut StdStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn requests_are_answered_also_several_on_one_connection() {
    let server = serve(HttpLimits::default());
    let answer = server.ask(
        b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
          GET /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert!(
        answer.contains("POST /slow 3") && answer.ends_with("GET /c 0"),
        "{answer}"
    );
}

#[test]
fn a_slow_header_ends_the_connection_and_so_does_idling() {
    let server = serve(HttpLimits {
        header_deadline: Duration::from_millis(300),
        ..HttpLimits::default()
    });
    let mut slow = server.connect();
    let mut idle = server.connect();
    let mut silent = server.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let began = Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        if slow.write_all(b"a: b\r\n").is_err() {
            break;
        }
    }
    assert!(!read_to_end(&mut slow).contains("200 OK"));
    assert!(read_to_end(&mut idle).contains("200 OK"));
    assert!(!read_to_end(&mut silent).contains("200 OK"));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_huge_header_is_refused() {
    let server = serve(HttpLimits::default());
    let mut request = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
    request.extend(b"a: ");
    request.resize(1 << 20, b'z');
    let answer = server.ask(&request);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let mut request = b"GET / HTTP/1.1\r\n".to_vec();
    for number in 0..200 {
        request.extend(format!("h{number}: 1\r\n").bytes());
    }
    request.extend(b"\r\n");
    assert!(server.ask(&request).starts_with("HTTP/1.1 431"));
    assert!(
        server
            .ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .contains("200 OK")
    );
}

#[test]
fn a_body_is_limited_in_size_and_time() {
    let limits = HttpLimits {
        body_deadline: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let server = serve(limits);
    let mut large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n".to_vec();
    large.resize(large.len() + 70_000, b'x');
    assert!(server.ask(&large).starts_with("HTTP/1.1 413"));
    let late = server.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    assert!(late.starts_with("HTTP/1.1 408"), "{late}");
    let broken = server.ask(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n");
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
}

#[test]
fn garbage_and_panics_end_their_connection_only() {
    let server = serve(HttpLimits::default());
    assert!(!server.ask(&[0xff; 4096]).contains("200 OK"));
    assert!(
        !server
            .ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            .contains("200 OK")
    );
    assert_eq!(server.ask(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    assert!(server.ask(b"GET / HTTP/1.0\r\n\r\n").contains("200 OK"));
}

#[test]
fn connections_are_limited_and_the_idle_give_way() {
    let server = serve(HttpLimits {
        connections_max: 10,
        ..HttpLimits::default()
    });
    let idle: Vec<StdStream> = (0..100).map(|_| server.connect()).collect();
    for _ in 0..20 {
        assert!(
            server
                .ask(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .contains("200 OK")
        );
    }
    drop(idle);
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    let server = serve(HttpLimits {
        write_deadline: Duration::from_millis(300),
        ..HttpLimits::default()
    });
    let mut stuck = server.connect();
    stuck
        .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    let got = read_to_end(&mut stuck).len();
    assert!(got < 20 << 20, "got all {got} bytes");
}
