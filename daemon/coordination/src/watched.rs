//! A value that changes, and those who wait for its next one.

use std::cell::RefCell;
use std::rc::Rc;

use net::Notify;

struct Inner<T> {
    value: T,
    version: u64,
}

/// Clones look at the same value; each remembers what it has seen.
pub(crate) struct Watched<T> {
    inner: Rc<RefCell<Inner<T>>>,
    event: Notify,
    seen: u64,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
            event: self.event.clone(),
            seen: self.seen,
        }
    }
}

impl<T: Clone + PartialEq> Watched<T> {
    pub fn new(value: T) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner { value, version: 0 })),
            event: Notify::new(),
            seen: 0,
        }
    }

    pub fn get(&self) -> T {
        self.inner.borrow().value.clone()
    }

    pub fn set(&self, value: T) {
        let mut inner = self.inner.borrow_mut();
        if inner.value == value {
            return;
        }
        inner.value = value;
        inner.version += 1;
        drop(inner);
        self.event.set();
    }

    /// The value, once it is another one than this clone saw last. What came and went in between is not told.
    pub async fn changed(&mut self) -> T {
        loop {
            if let Some(value) = self.unseen() {
                return value;
            }
            // All who wait have been woken by the last change, and look at the version before they wait again.
            self.event.clear();
            self.event.wait().await;
        }
    }

    fn unseen(&mut self) -> Option<T> {
        let inner = self.inner.borrow();
        if inner.version == self.seen {
            return None;
        }
        self.seen = inner.version;
        Some(inner.value.clone())
    }
}
