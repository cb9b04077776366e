//! What an operator reads of the way to ZooKeeper: each state once, not each try.

use std::cell::RefCell;

use crate::place::ZkUrl;
use crate::zookeeper::ZkError;

pub(crate) struct Journal {
    who: &'static str,
    zk: ZkUrl,
    trouble: RefCell<Option<String>>,
}

impl Journal {
    pub fn new(who: &'static str, zk: ZkUrl) -> Self {
        Self {
            who,
            zk,
            trouble: RefCell::default(),
        }
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
