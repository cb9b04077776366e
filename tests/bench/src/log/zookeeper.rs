//! A client of ZooKeeper that does nothing but set data: one session, many requests in flight, answers in order.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::driver;

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
/// The node is there already.
const EXISTS: i32 = -110;
const NODES: usize = 64;
const SESSION_MS: i32 = 40_000;

/// Answers lines until stdin ends. Of these servers the leader is asked, which saves it a hop.
pub fn drive(addresses: &[String]) -> Result<(), Box<dyn Error>> {
    let leader = addresses
        .iter()
        .find(|address| mode(address).is_ok_and(|mode| mode == "leader"))
        .ok_or("none of these leads")?;
    let mut session = Session::open(leader)?;
    for node in 0..NODES {
        session.send(CREATE, &create(&path(node)))?;
        session.flush()?;
        match session.receive()? {
            0 | EXISTS => {}
            error => return Err(format!("ZooKeeper refuses to create a node: {error}").into()),
        }
    }
    driver::obey(|writers, time| session.sets(writers, time))
}

/// `leader` or `follower`.
pub fn mode(address: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"srvr")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let mode = said.lines().find_map(|line| line.strip_prefix("Mode: "));
    Ok(mode.ok_or("it does not serve yet")?.to_owned())
}

struct Session {
    output: Vec<u8>,
    stream: TcpStream,
    input: BufReader<TcpStream>,
    next: i32,
}

impl Session {
    fn open(address: &str) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut session = Self {
            output: Vec::new(),
            input: BufReader::with_capacity(64 << 10, stream.try_clone()?),
            stream,
            next: 1,
        };
        // ConnectRequest: protocol 0, zxid 0, timeout, session 0, password of 16 zeros, not read-only.
        let mut request = vec![0; 12];
        request.extend(SESSION_MS.to_be_bytes());
        request.extend([0; 8]);
        request.extend(16_i32.to_be_bytes());
        request.extend([0; 17]);
        session.frame(&request)?;
        session.flush()?;
        session.answer()?;
        Ok(session)
    }

    fn frame(&mut self, body: &[u8]) -> Result<(), Box<dyn Error>> {
        self.output.extend(i32::try_from(body.len())?.to_be_bytes());
        self.output.extend(body);
        Ok(())
    }

    fn send(&mut self, kind: i32, body: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut request = self.next.to_be_bytes().to_vec();
        self.next = self.next.wrapping_add(1) & i32::MAX;
        request.extend(kind.to_be_bytes());
        request.extend(body);
        self.frame(&request)
    }

    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn answer(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length))?];
        self.input.read_exact(&mut body)?;
        Ok(body)
    }

    /// The error of the next answer: ReplyHeader is xid, zxid, err.
    fn receive(&mut self) -> Result<i32, Box<dyn Error>> {
        let body = self.answer()?;
        let error = body.get(12..16).and_then(|bytes| bytes.first_chunk::<4>());
        Ok(i32::from_be_bytes(*error.ok_or("an answer that is too short")?))
    }

    fn sets(&mut self, writers: usize, time: Duration) -> Result<Vec<u64>, Box<dyn Error>> {
        let requests: Vec<Vec<u8>> = (0..writers)
            .map(|writer| set_data(&path(writer % NODES)))
            .collect();
        let end = Instant::now() + time;
        let mut asked = VecDeque::new();
        for (writer, request) in requests.iter().enumerate() {
            asked.push_back((writer, Instant::now()));
            self.send(SET_DATA, request)?;
        }
        self.flush()?;
        let mut took = Vec::new();
        while let Some((writer, at)) = asked.pop_front() {
            match self.receive()? {
                0 => took.push(at.elapsed().as_nanos() as u64),
                error => return Err(format!("ZooKeeper refuses to set data: {error}").into()),
            }
            if Instant::now() < end {
                asked.push_back((writer, Instant::now()));
                self.send(SET_DATA, &requests[writer])?;
            }
            // What has arrived together is answered together.
            if self.input.buffer().is_empty() {
                self.flush()?;
            }
        }
        Ok(took)
    }
}

fn path(node: usize) -> String {
    format!("/bench-{node}")
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

fn create(path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, path.as_bytes());
    text(&mut body, b"");
    // One access rule: everything, to anyone of the world; persistent.
    body.extend(1_i32.to_be_bytes());
    body.extend(31_i32.to_be_bytes());
    text(&mut body, b"world");
    text(&mut body, b"anyone");
    body.extend(0_i32.to_be_bytes());
    body
}

fn set_data(path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, path.as_bytes());
    text(&mut body, &[7; driver::ENTRY_BYTES]);
    // Whatever version it has.
    body.extend((-1_i32).to_be_bytes());
    body
}
