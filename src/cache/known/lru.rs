//! A map that keeps what was used last.
//!
//! Two generations stand in for an order of use: who is asked for in the old one moves to the young one,
//! and a full young one becomes the old one.

use std::collections::HashMap;

/// At most so many entries, by text.
#[derive(Debug)]
pub(in crate::cache) struct Recent<V> {
    max: usize,
    young: HashMap<String, V>,
    old: HashMap<String, V>,
}

impl<V: Clone> Recent<V> {
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

    /// The entry, which is in use by that.
    pub(in crate::cache) fn get(&mut self, key: &str) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(in crate::cache) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.young.get_mut(key).or_else(|| self.old.get_mut(key))
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
        let mut recent = Recent::new(MAX);
        for index in 0..MAX + 10 {
            recent.insert(index.to_string(), index);
            assert_eq!(recent.get("0"), Some(0));
        }
        assert_eq!(recent.get("1"), None);
        assert_eq!(recent.get(&MAX.to_string()), Some(MAX));
        assert!(recent.young.len() + recent.old.len() <= MAX);
    }
}
