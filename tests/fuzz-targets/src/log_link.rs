//! The link between replicas of the log: frames that carry messages.
//!
//! Rules: what arrives is the same however the stream is cut; it ends with the link's end or an error; what arrived, sent
//! anew, arrives again.

use futures::io::Cursor;
use replog::frames::{Greeted, LinkEnd, frame, greet, receive_each};
use replog_core::Envelope;

use crate::feed::Feed;

/// What a link begins with.
const GREETING_BYTES: usize = 8;

pub fn run(data: &[u8]) {
    let (_, stream) = crate::choice(data);
    let (whole, end) = received(Cursor::new(stream.to_vec()));
    let (pieces, end_of_pieces) = received(Feed::new(data));
    assert_eq!(whole, pieces);
    assert_eq!(end, end_of_pieces);
    if whole.is_empty() {
        return;
    }
    // Something arrived, so it began with the greeting.
    let mut anew = stream[..GREETING_BYTES].to_vec();
    anew.extend(whole.chunks(256).flat_map(frame));
    let (again, end) = received(Cursor::new(anew));
    assert_eq!(again, whole);
    assert_eq!(end, LinkEnd::Closed.to_string());
}

fn received<S: futures::io::AsyncRead + Unpin + 'static>(stream: S) -> (Vec<Envelope>, String) {
    net::run(net::Config::default(), async {
        let mut arrived = Vec::new();
        let stream = match greet(stream).await {
            Ok(Greeted::Replica(stream)) => stream,
            // Not for this parser.
            Ok(Greeted::Caller(_)) => return (arrived, String::new()),
            Err(end) => return (arrived, end.to_string()),
        };
        let end = receive_each(stream, |envelope| {
            arrived.push(envelope);
            true
        })
        .await;
        (arrived, end.to_string())
    })
    .expect("a loop")
}
