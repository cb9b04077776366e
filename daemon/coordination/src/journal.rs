//! What an operator reads of the way to ZooKeeper: each state once, not each try.

use std::cell::RefCell;
use std::rc::Rc;

use crate::place::ZkUrl;
use crate::zookeeper::ZkError;

/// What stands in the way now, for whoever wants to look.
pub(crate) type Trouble = Rc<RefCell<Option<String>>>;

pub(crate) struct Journal {
    who: &'static str,
    zk: ZkUrl,
    trouble: Trouble,
}

impl Journal {
    pub fn new(who: &'static str, zk: ZkUrl) -> Self {
        Self::shown(who, zk, Trouble::default())
    }

    pub fn shown(who: &'static str, zk: ZkUrl, trouble: Trouble) -> Self {
        Self { who, zk, trouble }
    }

    pub fn trouble(&self, error: &ZkError) {
        self.say(error.told());
    }

    pub fn lost_contact(&self) {
        self.say("lost contact with ZooKeeper".to_owned());
    }

    pub fn fine(&self) {
        if self.trouble.take().is_some() {
            tracing::info!(who = self.who, zookeeper = %self.zk, "ZooKeeper answers again");
        }
    }

    fn say(&self, text: String) {
        let mut trouble = self.trouble.borrow_mut();
        if trouble.as_ref() != Some(&text) {
            tracing::warn!(who = self.who, zookeeper = %self.zk, "{text}; trying again until it works");
            *trouble = Some(text);
        }
    }
}
