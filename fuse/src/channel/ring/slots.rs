//! Who has each entry of a core's rings, and which memory is worth keeping: a decider, without I/O.
//!
//! ```text
//!            complete(>= 0)             answer
//!   Kernel ----------------> Server -----------------> Kernel
//!      |     complete(< 0)
//!      +-------------------> Nobody
//! ```
//!
//! Invariant: memory of an entry that the kernel has is not looked at, and memory of a ring is not
//! given back before `in_kernel` is 0.

use std::collections::HashMap;

/// Number of an entry among those of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Who has an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The kernel: it waits for a request, or holds an answer that it has not looked at.
    Kernel,
    /// The server: there is a request in it.
    Server,
    /// Nobody any more: the kernel gave it back.
    Nobody,
}

/// What a completion means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completed {
    /// The entry has a request.
    Request(Slot),
    /// The entry came back without one: the mount ends, or the kernel refused the command.
    Returned,
    /// A completion of nothing: a bug of ours or of the kernel, and nothing to act on.
    Unexpected,
}

#[derive(Debug, Clone, Copy)]
struct State {
    holder: Holder,
    /// What the kernel calls the request; 0 without one.
    commit_id: u64,
    /// Bytes of the payload that have memory because an answer was put there.
    touched_bytes: usize,
    /// When it was answered last, counted in answers.
    answered: u64,
}

/// The entries of a core.
#[derive(Debug)]
pub(super) struct Slots {
    states: Vec<State>,
    /// Requests that the server has, by their unique.
    requests: HashMap<u64, Slot>,
    in_kernel: usize,
    touched_bytes: usize,
    answers: u64,
}

impl Slots {
    /// `count` entries, all with nobody.
    pub(super) fn new(count: u32) -> Self {
        let state = State { holder: Holder::Nobody, commit_id: 0, touched_bytes: 0, answered: 0 };
        let states = vec![state; usize::try_from(count).unwrap_or(usize::MAX)];
        let requests = HashMap::with_capacity(states.len());
        Self { states, requests, in_kernel: 0, touched_bytes: 0, answers: 0 }
    }

    /// Entries that the kernel has.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// Whether the entry is one for requests, be it with the kernel or the server.
    pub(super) fn is_served(&self, slot: Slot) -> bool {
        self.states.get(slot.index()).is_some_and(|state| state.holder != Holder::Nobody)
    }

    /// The entry was given to the kernel for the first time.
    pub(super) fn registered(&mut self, slot: Slot) {
        let state = self.state(slot);
        assert_eq!(state.holder, Holder::Nobody, "{slot:?} is registered twice");
        state.holder = Holder::Kernel;
        self.in_kernel += 1;
    }

    /// The kernel completed the command `number` with `result`.
    pub(super) fn complete(&mut self, number: u64, result: i32) -> Completed {
        let Some(slot) = u32::try_from(number).ok().map(Slot).filter(|slot| self.has(*slot)) else {
            return Completed::Unexpected;
        };
        let state = self.state(slot);
        if state.holder != Holder::Kernel {
            return Completed::Unexpected;
        }
        state.holder = if result < 0 { Holder::Nobody } else { Holder::Server };
        self.in_kernel -= 1;
        if result < 0 { Completed::Returned } else { Completed::Request(slot) }
    }

    /// The request in `slot` is `unique`, to be committed as `commit_id`.
    pub(super) fn received(&mut self, slot: Slot, unique: u64, commit_id: u64) {
        let state = self.state(slot);
        assert_eq!(state.holder, Holder::Server, "{slot:?} has no request");
        state.commit_id = commit_id;
        self.requests.insert(unique, slot);
    }

    /// The entry that has the request `unique`, if any has; it is answered by that.
    pub(super) fn take(&mut self, unique: u64) -> Option<Slot> {
        self.requests.remove(&unique)
    }

    /// The answer of `answer_bytes` in `slot` goes to the kernel; returns what to commit it as.
    pub(super) fn answered(&mut self, slot: Slot, answer_bytes: usize) -> u64 {
        self.answers += 1;
        let answers = self.answers;
        let state = self.state(slot);
        assert_eq!(state.holder, Holder::Server, "{slot:?} has no request");
        state.holder = Holder::Kernel;
        state.answered = answers;
        let more_bytes = answer_bytes.saturating_sub(state.touched_bytes);
        state.touched_bytes += more_bytes;
        let commit_id = state.commit_id;
        self.in_kernel += 1;
        self.touched_bytes += more_bytes;
        commit_id
    }

    /// An entry whose memory is to be given back, because answers have touched more than
    /// `budget_bytes`: the one that was answered the longest ago, for the kernel uses the latest
    /// first. To be asked again until it has none. Only while the kernel has looked at all answers.
    pub(super) fn shed(&mut self, budget_bytes: usize) -> Option<Slot> {
        if self.touched_bytes <= budget_bytes {
            return None;
        }
        let oldest = self.states.iter_mut().enumerate();
        let oldest = oldest.filter(|(_, state)| state.touched_bytes > 0);
        let (index, state) = oldest.min_by_key(|(_, state)| state.answered)?;
        self.touched_bytes -= std::mem::take(&mut state.touched_bytes);
        u32::try_from(index).ok().map(Slot)
    }

    fn has(&self, slot: Slot) -> bool {
        slot.index() < self.states.len()
    }

    fn state(&mut self, slot: Slot) -> &mut State {
        // Numbers come from `complete`, which checks them, and from registration.
        &mut self.states[slot.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(count: u32) -> Slots {
        let mut slots = Slots::new(count);
        (0..count).for_each(|number| slots.registered(Slot(number)));
        slots
    }

    #[test]
    fn an_entry_goes_from_the_kernel_to_the_server_and_back() {
        let mut slots = registered(2);
        assert_eq!(slots.in_kernel(), 2);
        assert_eq!(slots.complete(1, 0), Completed::Request(Slot(1)));
        slots.received(Slot(1), 42, 77);
        assert_eq!((slots.in_kernel(), slots.take(41)), (1, None));
        assert_eq!(slots.take(42), Some(Slot(1)));
        assert_eq!(slots.take(42), None, "a request is answered once");
        assert_eq!(slots.answered(Slot(1), 10), 77);
        assert_eq!(slots.in_kernel(), 2);
        assert_eq!(slots.complete(1, -libc::ENOTCONN), Completed::Returned);
        assert_eq!(slots.complete(0, -libc::ENOTCONN), Completed::Returned);
        assert_eq!(slots.in_kernel(), 0, "all memory may be given back");
    }

    #[test]
    fn a_completion_of_nothing_changes_nothing() {
        let mut slots = registered(2);
        assert_eq!(slots.complete(0, 0), Completed::Request(Slot(0)));
        for number in [0, 2, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(slots.complete(number, 0), Completed::Unexpected, "{number}");
        }
        assert_eq!(slots.in_kernel(), 1);
    }

    #[test]
    fn memory_of_the_entry_that_rested_longest_is_shed_first() {
        let mut slots = registered(4);
        for (number, answer_bytes) in [(2, 100), (0, 50), (3, 0), (2, 70), (1, 60)] {
            assert_eq!(
                slots.complete(number, 0),
                Completed::Request(Slot(u32::try_from(number).unwrap()))
            );
            slots.answered(Slot(u32::try_from(number).unwrap()), answer_bytes);
        }
        // Slot 2 was answered twice and touched 100; slot 3 answered an error and touched nothing.
        assert_eq!(slots.shed(210), None);
        assert_eq!(slots.shed(209), Some(Slot(0)));
        assert_eq!(slots.shed(160), None);
        assert_eq!(slots.shed(0), Some(Slot(2)));
        assert_eq!(slots.shed(0), Some(Slot(1)));
        assert_eq!(slots.shed(0), None);
    }
}
