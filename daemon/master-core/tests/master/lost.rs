//! Whoever is lost is given up once, whatever else is being decided about it meanwhile.

use super::*;

/// One agent with one task, and writes that take long from now on.
fn one_with_a_task(world: &mut World) -> (Link, AgentId) {
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    world.launch("task-1");
    let ticket = Ticket(world.number());
    world.input(Input::Update {
        ticket,
        link,
        report: report("task-1", 1, TaskState::Running),
    });
    world.slow = true;
    (link, id)
}

fn is_given_up(world: &mut World, id: &AgentId) {
    world.slow = false;
    world.until(world.now + 100 * SECOND, |_| false);
    assert_eq!(world.state(id), AgentState::Unreachable);
    assert_eq!(world.task("task-1"), TaskState::Unreachable);
    assert!(world.registry.unreachable.contains_key(id));
}

#[test]
fn one_that_is_lost_while_its_drain_is_written_is_given_up() {
    for written in [true, false] {
        let mut world = World::new(settings(1));
        let (link, id) = one_with_a_task(&mut world);
        let ticket = world.drain(&id, false);
        world.input(Input::LinkLost { link });
        world.until(200 * SECOND, |_| false);
        assert_eq!(world.state(&id), AgentState::Disconnected);
        match written {
            true => world.let_through(),
            false => world.turn_down(),
        }
        assert_eq!(world.answer(ticket).unwrap().is_ok(), written);
        is_given_up(&mut world, &id);
    }
}

#[test]
fn one_whose_turn_comes_while_its_drain_is_written_is_given_up_later() {
    let mut world = World::new(Settings {
        removal_limit: Some((1, 1000 * SECOND)),
        ..settings(1)
    });
    let links: Vec<Link> = (0..3).map(|number| world.register(hello(number, None))).collect();
    let ids: Vec<AgentId> = links.iter().map(|link| world.id_of(*link)).collect();
    for link in &links {
        world.input(Input::LinkLost { link: *link });
    }
    // The first one goes at once; the second one's turn comes at about 1075 s.
    world.until(900 * SECOND, |_| false);
    assert_eq!(world.core.count_agents(AgentState::Unreachable), 1);
    world.slow = true;
    world.drain(&ids[1], false);
    world.until(1100 * SECOND, |_| false);
    world.let_through();
    world.slow = false;
    world.until(4000 * SECOND, |_| false);
    assert_eq!(world.core.count_agents(AgentState::Unreachable), 3);
    assert_eq!(world.core.counters.unreachable_completed, 3);
    assert_eq!(world.core.deadline(), None, "nobody is waited for any more");
}

#[test]
fn one_that_has_not_come_back_while_its_drain_was_written_is_given_up() {
    let mut world = World::new(settings(1));
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    let mut next = World::after(settings(2), world.registry);
    next.until(599 * SECOND, |_| true);
    next.slow = true;
    next.drain(&id, false);
    next.until(700 * SECOND, |_| true);
    assert_eq!(next.state(&id), AgentState::Recovered);
    next.let_through();
    next.slow = false;
    next.until(800 * SECOND, |_| true);
    assert_eq!(next.state(&id), AgentState::Unreachable);
    assert_eq!(next.core.counters.recovery_removals, 1);
}

#[test]
fn one_that_could_not_be_written_down_is_tried_again() {
    // As unreachable.
    let mut world = World::new(settings(1));
    let (link, id) = one_with_a_task(&mut world);
    world.input(Input::LinkLost { link });
    world.until(200 * SECOND, |_| false);
    world.turn_down();
    assert_eq!(world.state(&id), AgentState::Disconnected);
    is_given_up(&mut world, &id);
    // With another record: its attempt to register is refused, and it does not come again.
    let mut world = World::new(settings(1));
    let (_, id) = one_with_a_task(&mut world);
    let mut larger = hello(0, Some(id.clone()));
    larger.record.hostname = "renamed".into();
    let again = world.register(larger);
    world.until(200 * SECOND, |_| false);
    world.turn_down();
    assert_eq!(world.refusal(again).unwrap().0, Refusal::Retry);
    is_given_up(&mut world, &id);
}

#[test]
fn whoever_leaves_again_keeps_its_place_among_those_that_wait() {
    let mut world = World::new(Settings {
        removal_limit: Some((1, 1000 * SECOND)),
        ..settings(1)
    });
    let links: Vec<Link> = (0..3).map(|number| world.register(hello(number, None))).collect();
    let ids: Vec<AgentId> = links.iter().map(|link| world.id_of(*link)).collect();
    for link in &links {
        world.input(Input::LinkLost { link: *link });
    }
    world.until(500 * SECOND, |_| false);
    let back = world.register(hello(1, Some(ids[1].clone())));
    assert_eq!(world.core.counters.unreachable_canceled, 1);
    world.input(Input::LinkLost { link: back });
    world.until(5000 * SECOND, |_| false);
    let lost: Vec<&AgentId> = world
        .written
        .iter()
        .filter_map(|(_, edit)| match edit {
            Edit::MarkUnreachable { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(lost, ids.iter().collect::<Vec<_>>(), "each once, in its turn");
}

fn is_gone(world: &mut World, id: &AgentId) {
    assert!(world.registry.gone.contains_key(id), "{:?}", world.written);
    assert!(world.core.agent(id).is_none());
    let again = world.register(hello(0, Some(id.clone())));
    assert_eq!(world.refusal(again).unwrap().0, Refusal::Shutdown);
}

#[test]
fn a_drain_that_ends_with_gone_ends_so() {
    // With nothing on it, and with a task that has to end first.
    let mut world = World::new(settings(1));
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    world.drain(&id, true);
    is_gone(&mut world, &id);

    let mut world = World::new(settings(1));
    let (link, id) = one_with_a_task(&mut world);
    world.slow = false;
    let ticket = world.drain(&id, true);
    assert_eq!(world.answer(ticket), Some(Ok(())));
    assert_eq!(world.state(&id), AgentState::Active);
    let ticket = Ticket(world.number());
    world.input(Input::Update {
        ticket,
        link,
        report: report("task-1", 2, TaskState::Killed),
    });
    let told = |wish: &Wish| matches!(wish, Wish::Shutdown { link: to, .. } if *to == link);
    assert!(world.said.iter().any(told));
    assert_eq!(world.task("task-1"), TaskState::Killed);
    is_gone(&mut world, &id);

    // Without that wish it stays.
    let mut world = World::new(settings(1));
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    world.drain(&id, false);
    world.until(50 * SECOND, |_| true);
    assert_eq!(world.state(&id), AgentState::Active);
}

#[test]
fn a_drain_ends_with_gone_though_a_write_fails_or_the_master_dies() {
    let drained = || {
        let mut world = World::new(settings(1));
        let link = world.register(hello(0, None));
        let id = world.id_of(link);
        world.slow = true;
        world.drain(&id, true);
        world.let_through();
        world.let_through();
        assert!(matches!(world.held[..], [(_, Edit::MarkGone { .. })]));
        (world, id)
    };
    let (mut world, id) = drained();
    world.turn_down();
    world.slow = false;
    world.until(20 * SECOND, |_| true);
    is_gone(&mut world, &id);
    // It need not come back for it.
    let (world, id) = drained();
    let mut next = World::after(settings(2), world.registry.clone());
    next.until(SECOND, |_| true);
    is_gone(&mut next, &id);
    let mut registry = world.registry;
    let lost = Edit::MarkUnreachable {
        id: id.clone(),
        at: 7,
    };
    master_core::registry::apply(&mut registry, &lost).unwrap();
    let mut next = World::after(settings(2), registry);
    next.slow = true;
    next.until(SECOND, |_| true);
    next.turn_down();
    next.slow = false;
    next.until(20 * SECOND, |_| true);
    is_gone(&mut next, &id);
}

#[test]
fn one_that_is_pruned_just_as_it_comes_back_is_a_stranger() {
    let pruned = |strict, by_key: bool| {
        let mut world = World::new(Settings {
            strict,
            ..settings(1)
        });
        let (link, id) = one_with_a_task(&mut world);
        world.input(Input::LinkLost { link });
        world.slow = false;
        world.until(200 * SECOND, |_| false);
        assert_eq!(world.state(&id), AgentState::Unreachable);
        world.slow = true;
        let link = world.register(hello(0, (!by_key).then(|| id.clone())));
        let prune = Edit::Prune {
            unreachable: vec![id.clone()],
            gone: Vec::new(),
        };
        master_core::registry::apply(&mut world.registry, &prune).unwrap();
        world.input(Input::Pruned {
            agents: vec![id.clone()],
        });
        world.let_through();
        world.slow = false;
        world.let_through();
        (world, link, id)
    };
    let (mut world, link, id) = pruned(true, false);
    for link in [link, world.register(hello(0, Some(id.clone())))] {
        let (refusal, said) = world.refusal(link).unwrap();
        assert_eq!(refusal, Refusal::Shutdown);
        assert!(said.contains("knows no agent"), "{said}");
    }
    assert!(world.core.agent(&id).is_none() && world.core.task(&task_id("task-1")).is_none());
    // It may come in with its old id where strangers may, and with a new one if it never heard of the old one.
    let (world, link, id) = pruned(false, false);
    assert_eq!(world.id_of(link), id);
    assert!(world.registry.agents.contains_key(&id));
    let (world, link, id) = pruned(true, true);
    assert_ne!(world.id_of(link), id);
    assert_eq!(world.registry.agents.len(), 1);
}

#[test]
fn an_operator_s_edit_of_one_that_is_pruned_meanwhile_ends_it() {
    let mut world = World::new(settings(1));
    let (link, id) = one_with_a_task(&mut world);
    world.input(Input::LinkLost { link });
    world.slow = false;
    world.until(200 * SECOND, |_| false);
    world.slow = true;
    let ticket = world.drain(&id, true);
    world.registry.unreachable.clear();
    world.input(Input::Pruned {
        agents: vec![id.clone()],
    });
    world.let_through();
    assert!(world.answer(ticket).unwrap().is_err());
    assert!(world.core.agent(&id).is_none() && world.core.task(&task_id("task-1")).is_none());
    assert_eq!(world.core.deadline(), None);
}

#[test]
fn one_that_does_not_answer_is_asked_once() {
    let mut world = World::new(settings(1));
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    world.slow = true;
    let pings = |world: &World| {
        world
            .said
            .iter()
            .filter(|wish| matches!(wish, Wish::Ping { .. }))
            .count()
    };
    world.until(70 * SECOND, |_| false);
    assert_eq!(pings(&world), 1);
    // It was only stopped for a while.
    world.input(Input::Ponged { link });
    world.until(95 * SECOND, |_| false);
    assert_eq!(pings(&world), 2);
    // An answer that is an error is no answer, and it is asked again.
    world.input(Input::PingFailed { link });
    world.until(110 * SECOND, |_| false);
    assert_eq!(pings(&world), 3);
    // What was not answered counts all the same.
    world.until(1000 * SECOND, |_| false);
    assert_eq!(pings(&world), 3);
    assert!(matches!(&world.held[..], [(_, Edit::MarkUnreachable { id: lost, .. })] if *lost == id));
}

#[test]
fn an_agent_whose_welcome_got_lost_with_its_master_is_not_a_second_agent() {
    let mut world = World::new(settings(1));
    world.slow = true;
    world.register(hello(0, None));
    world.let_through();
    let mut nameless = hello(1, None);
    nameless.key.clear();
    world.register(nameless);
    world.let_through();
    let id = world.registry.agents.keys().next().cloned().unwrap();
    assert_eq!(world.registry.agents.len(), 2);
    // The master dies before the welcome arrives.
    let mut next = World::after(settings(2), world.registry.clone());
    let link = next.register(hello(0, None));
    assert_eq!(next.id_of(link), id);
    assert_eq!(
        (next.state(&id), next.registry.agents.len()),
        (AgentState::Active, 2)
    );
    // Also when it is found only after it was given up.
    let mut next = World::after(settings(2), world.registry);
    next.until(700 * SECOND, |_| true);
    assert_eq!(next.registry.unreachable.len(), 2);
    let mut after = World::after(settings(3), next.registry);
    let link = after.register(hello(0, None));
    assert_eq!(after.id_of(link), id);
    assert_eq!(
        (after.registry.agents.len(), after.registry.unreachable.len()),
        (1, 1)
    );
    // Not when it is gone: then it is a new one, also for the next leader.
    let ticket = Ticket(after.number());
    after.input(Input::MarkGone {
        ticket,
        agent: id.clone(),
    });
    let link = after.register(hello(0, None));
    let second = after.id_of(link);
    assert_ne!(second, id);
    let mut last = World::after(settings(4), after.registry);
    let link = last.register(hello(0, None));
    assert_eq!(last.id_of(link), second);
}
