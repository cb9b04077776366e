//! Tasks, timers, fairness, panics, wake-ups from other threads.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::AsyncReadExt as _;
use futures::AsyncWriteExt as _;
use futures::future::join_all;
use net::queue::{bounded, oneshot};
use net::{Config, TaskSet, UnixStream, now, run, sleep, spawn, timeout};

fn on_loop<F: Future>(root: F) -> F::Output {
    run(Config::default(), root).unwrap()
}

#[test]
fn sleeps_never_end_early_and_hardly_late() {
    let late = on_loop(async {
        let mut worst = Duration::ZERO;
        for micros in [0, 300, 1_500, 20_000] {
            let span = Duration::from_micros(micros);
            let began = now();
            sleep(span).await;
            let took = now() - began;
            assert!(took >= span, "slept {took:?} instead of {span:?}");
            worst = worst.max(took - span);
        }
        worst
    });
    assert!(late < Duration::from_millis(200), "{late:?} late");
}

#[test]
fn ten_thousand_sleeps_at_once() {
    let (done, left) = on_loop(async {
        let done = Rc::new(Cell::new(0));
        let began = now();
        let tasks: Vec<_> = (0..10_000_u64)
            .map(|index| {
                let done = Rc::clone(&done);
                spawn(async move {
                    sleep(Duration::from_millis(1 + index % 100)).await;
                    done.set(done.get() + 1);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(now() - began >= Duration::from_millis(100));
        (done.get(), net::statistics().timers)
    });
    assert_eq!((done, left), (10_000, 0));
}

#[test]
fn timeout_drops_what_is_late_and_keeps_what_is_not() {
    on_loop(async {
        struct Dropped(Rc<Cell<bool>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let dropped = Rc::new(Cell::new(false));
        let guard = Dropped(Rc::clone(&dropped));
        let late = timeout(Duration::from_millis(5), async move {
            let _guard = guard;
            sleep(Duration::MAX).await;
        });
        assert_eq!(late.await, Err(net::Elapsed));
        assert!(dropped.get());
        assert_eq!(timeout(Duration::from_secs(5), async { 7 }).await, Ok(7));
        assert_eq!(net::statistics().timers, 0);
    });
}

#[test]
fn a_task_that_never_rests_does_not_stop_timers_or_sockets() {
    on_loop(async {
        let spins = Rc::new(Cell::new(0_u64));
        let counted = Rc::clone(&spins);
        let _spinner = spawn(poll_fn::<(), _>(move |cx| {
            counted.set(counted.get() + 1);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let echo = spawn(async move {
            let mut byte = [0];
            right.read_exact(&mut byte).await.unwrap();
            right.write_all(&byte).await.unwrap();
        });
        let began = now();
        sleep(Duration::from_millis(50)).await;
        left.write_all(b"x").await.unwrap();
        left.read_exact(&mut [0]).await.unwrap();
        echo.await.unwrap();
        assert!(now() - began < Duration::from_millis(500));
        assert!(spins.get() > 1000);
    });
}

#[test]
fn a_stream_that_is_always_ready_does_not_keep_the_loop() {
    on_loop(async {
        let (mut source, mut sink) = UnixStream::pair().unwrap();
        let _flood = spawn(async move {
            let block = vec![1; 64 << 10];
            while source.write_all(&block).await.is_ok() {}
        });
        let total = Rc::new(Cell::new(0));
        let sum = Rc::clone(&total);
        let _reader = spawn(async move {
            let mut block = vec![0; 64 << 10];
            while let Ok(count) = sink.read(&mut block).await {
                sum.set(sum.get() + count);
            }
        });
        let began = now();
        for _ in 0..10 {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(now() - began < Duration::from_millis(800));
        assert!(total.get() > 1 << 20);
    });
}

#[test]
fn a_panic_ends_its_task_only() {
    let panics = on_loop(async {
        let bad = spawn(async {
            sleep(Duration::from_millis(1)).await;
            panic!("number {}", 7);
        });
        let good = spawn(async {
            sleep(Duration::from_millis(10)).await;
            42
        });
        assert_eq!(bad.await.unwrap_err().message, "number 7");
        spawn(async { panic!("nobody waits") }).detach();
        assert_eq!(good.await.unwrap(), 42);
        net::statistics().panics
    });
    assert_eq!(panics, 2);
}

#[test]
fn a_panic_of_the_root_leaves_run_and_the_thread_can_run_again() {
    let dropped = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&dropped);
    let result = std::panic::catch_unwind(move || {
        on_loop(async move {
            struct Counted(Arc<AtomicU64>);
            impl Drop for Counted {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
            let counted = Counted(seen);
            spawn(async move {
                let _counted = counted;
                std::future::pending::<()>().await;
            })
            .detach();
            net::yield_now().await;
            panic!("root");
        })
    });
    assert!(result.is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "remaining tasks are dropped");
    assert_eq!(on_loop(async { 5 }), 5);
}

#[test]
fn a_loop_inside_a_loop_is_refused() {
    assert!(on_loop(async { run(Config::default(), async {}).is_err() }));
}

#[test]
fn dropping_a_task_or_its_set_cancels_it() {
    on_loop(async {
        let reached = Rc::new(Cell::new(0));
        let make = || {
            let reached = Rc::clone(&reached);
            async move {
                sleep(Duration::from_millis(300)).await;
                reached.set(reached.get() + 1);
            }
        };
        drop(spawn(make()));
        let set = TaskSet::new();
        set.spawn(make());
        set.spawn(async {});
        net::yield_now().await;
        net::yield_now().await;
        assert_eq!(set.len(), 1, "a finished task leaves the set");
        drop(set);
        spawn(make()).detach();
        // All of them would be due by then.
        sleep(Duration::from_millis(600)).await;
        assert_eq!(reached.get(), 1);
        assert_eq!(net::statistics().tasks, 0);
    });
}

#[test]
fn destructors_at_the_end_of_the_loop_may_use_it() {
    on_loop(async {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                spawn(async {}).detach();
                drop(sleep(Duration::from_secs(1)));
            }
        }
        let (stream, _other) = UnixStream::pair().unwrap();
        spawn(async move {
            let _late = Late;
            let mut stream = stream;
            let _ = stream.read(&mut [0]).await;
        })
        .detach();
        net::yield_now().await;
    });
}

/// Two loops exchange single values through queues of every small capacity, with random rests: a lost wake-up hangs.
#[test]
fn wakes_from_another_thread_are_never_lost() {
    const VALUES: u64 = 100_000;
    for capacity in [1, 2, 7] {
        let (to_other, mut from_us) = bounded::<u64>(capacity);
        let (to_us, mut from_other) = bounded::<u64>(capacity);
        let other = std::thread::spawn(move || {
            on_loop(async move {
                let mut state = 0x9e37_79b9_u64;
                while let Some(value) = from_us.pop().await {
                    rest(&mut state).await;
                    to_us.push(value + 1).await.unwrap();
                }
            });
        });
        let sum = on_loop(async move {
            let sender = spawn(async move {
                let mut state = 1;
                for value in 0..VALUES {
                    to_other.push(value).await.unwrap();
                    rest(&mut state).await;
                }
            });
            let mut sum = 0;
            let mut count = 0;
            while let Some(value) = timeout(Duration::from_secs(20), from_other.pop())
                .await
                .expect("a wake-up was lost")
            {
                sum += value;
                count += 1;
            }
            assert_eq!(count, VALUES);
            sender.await.unwrap();
            sum
        });
        other.join().unwrap();
        assert_eq!(sum, VALUES * (VALUES + 1) / 2);
    }
}

/// Sometimes goes on at once, sometimes after others, sometimes lets the loop sleep.
async fn rest(state: &mut u64) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    match *state % 1024 {
        0 => sleep(Duration::from_micros(*state % 300)).await,
        1..64 => net::yield_now().await,
        64..128 => std::hint::spin_loop(),
        _ => {}
    }
}

#[test]
fn the_root_is_woken_from_another_thread() {
    on_loop(async {
        for round in 0..300_u64 {
            let (sender, receiver) = oneshot();
            let thread = std::thread::spawn(move || {
                if round % 3 == 0 {
                    std::thread::sleep(Duration::from_micros(round * 7));
                }
                sender.send(round).unwrap();
            });
            let value = timeout(Duration::from_secs(10), receiver)
                .await
                .expect("a wake-up was lost");
            assert_eq!(value, Ok(round));
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_bounded_queue_holds_back_its_senders_and_serves_them_in_order() {
    on_loop(async {
        let (sender, mut receiver) = bounded(2);
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..10)
            .map(|value| {
                let sender = sender.clone();
                let order = Rc::clone(&order);
                spawn(async move {
                    sender.push(value).await.unwrap();
                    order.borrow_mut().push(value);
                })
            })
            .collect();
        sleep(Duration::from_millis(5)).await;
        assert_eq!(receiver.len(), 2);
        assert_eq!(order.borrow().len(), 2);
        // One who waits goes away: his turn is passed on.
        let mut tasks = tasks;
        drop(tasks.remove(2));
        let mut got = Vec::new();
        while got.len() < 9 {
            got.push(
                timeout(Duration::from_secs(5), receiver.pop())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        assert_eq!(got, [0, 1, 3, 4, 5, 6, 7, 8, 9]);
        join_all(tasks).await;
        drop(receiver);
        assert!(sender.push(1).await.is_err());
    });
}

#[test]
fn an_event_stays_set_until_it_is_cleared() {
    on_loop(async {
        let event = net::Notify::new();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let event = event.clone();
                spawn(async move { event.wait().await })
            })
            .collect();
        net::yield_now().await;
        event.set();
        for task in waiting {
            task.await.unwrap();
        }
        event.wait().await;
        event.clear();
        assert_eq!(
            timeout(Duration::from_millis(5), event.wait()).await,
            Err(net::Elapsed)
        );
    });
}

#[test]
fn oneshot_tells_of_a_lost_sender() {
    on_loop(async {
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.await, Err(net::queue::Canceled));
        let (sender, receiver) = oneshot::<u8>();
        drop(receiver);
        assert!(sender.is_canceled());
        assert_eq!(sender.send(3), Err(3));
    });
}
