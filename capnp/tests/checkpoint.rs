//! A checkpoint that was damaged in any way is an error that says so.

use std::time::{Duration, Instant};

use model::{Checkpoint, ContainerState, KeptDescriptor, LaunchSpec, Limits, ProcessIdentity};
use proptest::prelude::*;
use wire::checkpoint::{CheckpointError, Damage, FORMAT_VERSION, decode, encode};

fn example() -> Checkpoint {
    Checkpoint {
        instance: "default".into(),
        id: "c1".parse().unwrap(),
        spec: LaunchSpec {
            command: vec!["sleep".into(), "60".into()],
            ..LaunchSpec::default()
        },
        state: ContainerState::Running,
        limits: Limits::default(),
        updating: Some(Limits::default()),
        start_marked: true,
        init: Some(ProcessIdentity {
            pid: 4711,
            start_time: 99,
            boot_id: "b".into(),
        }),
        kept: vec![KeptDescriptor {
            name: "status".into(),
            number: 10,
        }],
        sandbox: Some("/var/lib/bulkhead/sandboxes/c1".into()),
        created_at_ms: 1,
        started_at_ms: Some(2),
        killing: None,
        kill_at_ms: None,
        termination: None,
        network_slot: Some(7),
    }
}

/// Seals any payload as a valid frame, so that the message inside is what is looked at.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"BHck".to_vec();
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(payload);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn every_flipped_bit_is_found() {
    let good = encode(&example());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn every_torn_write_is_found() {
    let good = encode(&example());
    for length in 0..good.len() {
        assert!(
            matches!(
                decode(&good[..length]),
                Err(CheckpointError::Corrupt(Damage::Length { .. }))
            ),
            "{length}"
        );
    }
    let mut long = good;
    long.push(0);
    assert!(matches!(
        decode(&long),
        Err(CheckpointError::Corrupt(Damage::Length { .. }))
    ));
}

#[test]
fn other_files_and_later_formats_are_told_apart() {
    let mut later = encode(&example());
    later[4] = 200;
    assert_eq!(
        decode(&later),
        Err(CheckpointError::UnknownVersion { found: 200 })
    );
    assert!(matches!(
        decode(&[b'{'; 40]),
        Err(CheckpointError::Corrupt(Damage::Magic { .. }))
    ));
    let mut huge = encode(&example());
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        decode(&huge),
        Err(CheckpointError::Corrupt(Damage::TooLarge { .. }))
    ));
    assert!(matches!(
        decode(&frame(&[0; 8])),
        Err(CheckpointError::Invalid(_) | CheckpointError::Corrupt(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// Random messages behind a valid frame: segment tables, pointers and tags of all kinds.
    #[test]
    fn random_messages_never_panic(payload in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..256)) {
        let began = Instant::now();
        let _ = decode(&frame(&payload));
        prop_assert!(began.elapsed() < Duration::from_secs(2));
    }

    /// True messages with some bytes changed, resealed.
    #[test]
    fn changed_messages_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut payload = encode(&example()).split_off(16);
        for (at, value) in changes {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        let _ = decode(&frame(&payload));
    }
}
