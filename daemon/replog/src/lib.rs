//! The replicated log, acting. So far its disk: a [`Store`] of checksummed, preallocated segment files with one flush
//! per batch, that tells a torn tail (never promised to anybody, cut off) from bit rot (was promised, reported).

mod answering;
mod asking;
pub mod batch;
mod client;
pub mod codec;
pub mod directory;
mod error;
pub mod frames;
mod identity;
mod index;
mod ledger;
mod open;
mod peers;
mod piece;
mod reading;
mod replica;
mod roll;
pub mod salvage;
pub mod scan;
mod scrub;
pub mod sector;
mod segment;
mod service;
mod store;
pub mod tool;
mod writing;

pub use batch::Entry;
pub use client::Client;
pub use directory::{Directory, DiskDirectory, DiskFile, File};
pub use error::{LogError, OpenError, StoreError};
pub use ledger::{Found, Ledger};
pub use piece::Piece;
pub use replica::{Config, Replica, ReplicaStatus};
pub use roll::SpareMaker;
pub use segment::SegmentNumber;
pub use service::serve;
pub use store::{Damage, Options, Recovered, Store};
