//! Resources, attributes and ranges of ids as operators write them.
//!
//! Rules: what is taken prints as something that is taken again and is the same.

use model::resources::{Attributes, Resources};
use model::user_namespace::{ID_MIN, IdRange};

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    if let Ok(resources) = text.parse::<Resources>() {
        let printed = resources.to_string();
        assert_eq!(printed.parse(), Ok(resources), "{printed:?}");
    }
    if let Ok(attributes) = text.parse::<Attributes>() {
        let printed = attributes.to_string();
        assert_eq!(printed.parse(), Ok(attributes), "{printed:?}");
    }
    if let Ok(range) = text.parse::<IdRange>() {
        assert!(range.base >= ID_MIN && range.count > 0);
        assert!(range.end() <= u64::from(u32::MAX));
        let all = range.allocate([], range.base, range.count);
        assert_eq!(all, Some(range));
    }
}
