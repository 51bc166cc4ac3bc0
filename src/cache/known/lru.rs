//! A map that keeps what was used last.
//!
//! It has two halves in place of an order of use. An entry of the old half that is asked for moves to the young one, and
//! a young half that is full becomes the old one.

use std::collections::HashMap;

/// A map from text with at most `max` entries.
#[derive(Debug)]
pub(in crate::cache) struct Lru<V> {
    max: usize,
    young: HashMap<String, V>,
    old: HashMap<String, V>,
}

impl<V> Lru<V> {
    pub(in crate::cache) fn new(max: usize) -> Self {
        Self { max, young: HashMap::new(), old: HashMap::new() }
    }

    pub(in crate::cache) fn insert(&mut self, key: String, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.max / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// The entry, which counts as used now.
    pub(in crate::cache) fn get(&mut self, key: &str) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    pub(in crate::cache) fn remove(&mut self, key: &str) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_are_forgotten() {
        const MAX: usize = 100;
        let mut recent = Lru::new(MAX);
        for index in 0..MAX + 10 {
            recent.insert(index.to_string(), index);
            assert_eq!(recent.get("0").copied(), Some(0));
        }
        assert_eq!(recent.get("1"), None);
        assert_eq!(recent.get(&MAX.to_string()).copied(), Some(MAX));
        assert!(recent.young.len() + recent.old.len() <= MAX);
    }
}
