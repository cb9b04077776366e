//! Real containers: how they begin and end.

mod harness;

use harness::{World, shell, spec};

#[test]
fn the_exit_status_is_the_commands_own() {
    let world = World::new();
    for status in [0, 1, 42, 255] {
        let ended = world.run(&shell(&format!("exit {status}"))).unwrap();
        assert_eq!(ended.record.unwrap().exit_status(), status);
    }
}

#[test]
fn a_signal_is_told_from_a_status() {
    let world = World::new();
    let record = world.run(&shell("kill -SEGV $$")).unwrap().record.unwrap();
    assert_eq!((record.exit_status(), record.signal()), (139, Some(11)));
    let record = world.run(&shell("exit 139")).unwrap().record.unwrap();
    assert_eq!((record.exit_status(), record.signal()), (139, None));
}

#[test]
fn output_arrives() {
    let world = World::new();
    assert_eq!(world.output(&spec(&["echo", "hello"])), "hello\n");
}
