//! A client of etcd that does nothing but put: gRPC by hand over the `h2` crate, one connection, many streams. Leaner than
//! the official clients, so that what is measured is the server.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::net::TcpStream;

use super::driver;

type Failure = Box<dyn Error + Send + Sync>;

/// Answers lines until stdin ends. Of these members the leader is asked, which saves it a hop.
pub fn drive(addresses: &[String]) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = runtime
        .block_on(leader(addresses))
        .map_err(|error| error.to_string())?;
    driver::obey(|writers, time| {
        runtime
            .block_on(puts(&client, writers, time))
            .map_err(|error| error.to_string().into())
    })
}

async fn leader(addresses: &[String]) -> Result<SendRequest<Bytes>, Failure> {
    for address in addresses {
        let stream = TcpStream::connect(address.as_str()).await?;
        stream.set_nodelay(true)?;
        let (client, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(async move { drop(connection.await) });
        let status = call(&client, "/etcdserverpb.Maintenance/Status", Bytes::new()).await?;
        // StatusResponse: header = 1 {member_id = 2}, leader = 4.
        let header = field(&status, 1).ok_or("a status without a header")?;
        if field(&header, 2).is_some() && field(&header, 2) == field(&status, 4) {
            return Ok(client);
        }
    }
    Err("none of these leads".into())
}

async fn puts(client: &SendRequest<Bytes>, writers: usize, time: Duration) -> Result<Vec<u64>, Failure> {
    let end = Instant::now() + time;
    let writers: Vec<_> = (0..writers)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                // PutRequest: key = 1, value = 2.
                let mut request = BytesMut::new();
                put_field(&mut request, 1, format!("bench-{writer}").as_bytes());
                put_field(&mut request, 2, &[writer as u8; driver::ENTRY_BYTES]);
                let request = request.freeze();
                let mut took = Vec::new();
                while Instant::now() < end {
                    let asked = Instant::now();
                    let answer = call(&client, "/etcdserverpb.KV/Put", request.clone()).await?;
                    if field(&answer, 1).is_none() {
                        return Err("a put without an answer".into());
                    }
                    took.push(asked.elapsed().as_nanos() as u64);
                }
                Ok::<_, Failure>(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await??);
    }
    Ok(all)
}

/// One unary call: the bytes of the answer, which is empty when there is only an error.
async fn call(client: &SendRequest<Bytes>, path: &str, message: Bytes) -> Result<Bytes, Failure> {
    let request = http::Request::post(format!("http://etcd{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put(message);
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, false)?;
    stream.send_data(body.freeze(), true)?;
    let mut incoming = response.await?.into_body();
    let mut answer = BytesMut::new();
    while let Some(data) = incoming.data().await {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        answer.extend_from_slice(&data);
    }
    let status = incoming.trailers().await?;
    let refused = status.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|code| code != "0"));
    if refused || answer.len() < 5 {
        return Err(format!("etcd refuses {path}").into());
    }
    Ok(answer.freeze().slice(5..))
}

/// Of a protobuf message; numbers as their bytes.
fn field(message: &[u8], wanted: u64) -> Option<Bytes> {
    let mut rest = message;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Bytes::copy_from_slice(&varint(&mut rest)?.to_le_bytes()),
            2 => {
                let length = varint(&mut rest)? as usize;
                let value = rest.get(..length)?;
                rest = &rest[length..];
                Bytes::copy_from_slice(value)
            }
            _ => return None,
        };
        if key >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_field(out: &mut BytesMut, number: u8, value: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(value);
}
