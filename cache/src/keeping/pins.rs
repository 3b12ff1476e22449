//! What users say is to stay on disk, whatever the policy would keep.
//!
//! A pin names a file, or a folder and all that is below it, of one store, and may end at some time.
//! What is pinned is told apart by its name alone, so that objects of which nothing is cached yet are
//! pinned too, in every version they will have.

/// Something that is to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The store of the objects, as [`crate::ObjectVersion::store`] names it.
    pub store: Box<str>,
    /// The key of a file, or of a folder without its last `/`; empty for the whole store.
    pub key: Box<str>,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub ends_ms: Option<u64>,
}

impl Pin {
    /// Whether the object `key` of `store` is meant.
    pub fn holds(&self, store: &str, key: &str) -> bool {
        let rest = key.strip_prefix(&*self.key);
        let is_below = |rest: &str| self.key.is_empty() || rest.is_empty() || rest.starts_with('/');
        store == &*self.store && rest.is_some_and(is_below)
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms)
    }
}

/// All pins, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins {
    pins: Vec<Pin>,
}

impl Pins {
    /// Those of `pins` that are not over.
    pub(crate) fn new(pins: Vec<Pin>, now_ms: u64) -> Self {
        let mut all = Self { pins };
        all.drop_those_over(now_ms);
        all
    }

    /// Whether anything is said of this object.
    pub(crate) fn hold(&self, store: &str, key: &str) -> bool {
        self.pins.iter().any(|pin| pin.holds(store, key))
    }

    /// Adds `pin`, in place of one of the same name.
    pub(crate) fn put(&mut self, pin: Pin) {
        self.remove(&pin.store, &pin.key);
        self.pins.push(pin);
        self.pins.sort_by(|a, b| (&a.store, &a.key).cmp(&(&b.store, &b.key)));
    }

    /// Removes the pin of exactly this name; whether there was one.
    pub(crate) fn remove(&mut self, store: &str, key: &str) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| &*pin.store != store || &*pin.key != key);
        self.pins.len() < before
    }

    /// Forgets the pins that have ended; whether there were any.
    pub(crate) fn drop_those_over(&mut self, now_ms: u64) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| !pin.is_over(now_ms));
        self.pins.len() < before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    pub(crate) fn all(&self) -> &[Pin] {
        &self.pins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(key: &str, ends_ms: Option<u64>) -> Pin {
        Pin { store: "s".into(), key: key.into(), ends_ms }
    }

    #[test]
    fn a_pin_holds_a_file_or_what_is_below_a_folder() {
        for (key, held, not_held) in
            [("a/b", &["a/b", "a/b/c"][..], &["a/bc", "a", "x/a/b"][..]), ("", &["a", "b/c"], &[])]
        {
            let pin = pin(key, None);
            assert!(held.iter().all(|other| pin.holds("s", other)), "{key}");
            assert!(!not_held.iter().any(|other| pin.holds("s", other)), "{key}");
            assert!(!pin.holds("other", held[0]));
        }
    }

    #[test]
    fn a_pin_ends_when_it_says_and_a_new_one_takes_its_place() {
        let mut pins = Pins::new(vec![pin("a", Some(10)), pin("b", None), pin("c", Some(5))], 5);
        assert_eq!(pins.all(), [pin("a", Some(10)), pin("b", None)]);
        pins.put(pin("a", Some(20)));
        assert!(!pins.drop_those_over(10));
        assert!(pins.hold("s", "a/x"));
        assert!(pins.drop_those_over(20));
        assert!(!pins.hold("s", "a/x"));
        assert!(pins.remove("s", "b") && !pins.remove("s", "b"));
        assert!(pins.is_empty());
    }
}
