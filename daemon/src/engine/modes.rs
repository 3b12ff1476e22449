//! Decides how the open handles of an inode are read: by the kernel from a file, or by this daemon.
//!
//! A pure decider. The kernel wants one answer for all handles of an inode that are open at a time
//! (`fuse/src/backing.rs` has its rules), so the first open chooses, those that come while it does
//! wait, and later ones are told. Handles that the daemon reads may have been opened before the file
//! was complete, and new ones that overlap would keep its inode in the slow mode for ever: so once the
//! kernel could read it, opens wait shortly for the old handles to be closed. A handle counts from before its OPEN is answered until its RELEASE
//! is received: the kernel is never in a mode that is not known here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What an open is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told<B> {
    /// Choose for all, and tell by [`Modes::chosen`] or [`Modes::abandoned`]. It is not counted yet.
    Choose,
    /// Somebody is choosing: ask again once that is done. It is not counted yet.
    Wait,
    /// The file could be passed through but for handles that are open: ask again once they are
    /// closed, or tell by [`Modes::waited_enough`] that they are not. It is not counted yet.
    WaitForClose,
    /// The handle is read through the daemon. It is counted.
    Cached,
    /// The kernel reads this file. It is counted.
    Passthrough(B),
}

/// The mode of one inode.
#[derive(Debug)]
enum Mode<B> {
    Choosing,
    Cached { handles: u64, closing: Closing },
    Passthrough { backing: B, handles: u64 },
}

/// Whether opens wait for the handles of an inode to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Not so far.
    Unasked,
    /// They do.
    Awaited,
    /// They did, in vain.
    Refused,
}

/// The modes of all inodes with open handles.
#[derive(Debug)]
pub(crate) struct Modes<B> {
    inodes: HashMap<u64, Mode<B>>,
}

impl<B> Default for Modes<B> {
    fn default() -> Self {
        Self { inodes: HashMap::new() }
    }
}

impl<B: Clone> Modes<B> {
    /// An open of `ino` begins, or asks again; `is_ready` says whether the kernel could read it.
    pub(crate) fn open(&mut self, ino: u64, is_ready: impl FnOnce() -> bool) -> Told<B> {
        match self.inodes.entry(ino) {
            Entry::Vacant(vacant) => {
                vacant.insert(Mode::Choosing);
                Told::Choose
            }
            Entry::Occupied(mut mode) => match mode.get_mut() {
                Mode::Choosing => Told::Wait,
                Mode::Cached { handles, closing } => {
                    if *closing == Closing::Unasked && is_ready() {
                        *closing = Closing::Awaited;
                    }
                    if *closing == Closing::Awaited {
                        return Told::WaitForClose;
                    }
                    *handles += 1;
                    Told::Cached
                }
                Mode::Passthrough { backing, handles } => {
                    *handles += 1;
                    Told::Passthrough(backing.clone())
                }
            },
        }
    }

    /// Who was to choose for `ino` has done so, and has the first handle.
    pub(crate) fn chosen(&mut self, ino: u64, backing: Option<B>) {
        let mode = match backing {
            Some(backing) => Mode::Passthrough { backing, handles: 1 },
            None => Mode::Cached { handles: 1, closing: Closing::Unasked },
        };
        let before = self.inodes.insert(ino, mode);
        debug_assert!(matches!(before, Some(Mode::Choosing)), "nobody was to choose for {ino}");
    }

    /// Who was to choose for `ino` has gone away: the next one is to.
    pub(crate) fn abandoned(&mut self, ino: u64) {
        if matches!(self.inodes.get(&ino), Some(Mode::Choosing)) {
            self.inodes.remove(&ino);
        }
    }

    /// The handles of `ino` are not closed in time: nobody waits for them any more.
    pub(crate) fn waited_enough(&mut self, ino: u64) {
        if let Some(Mode::Cached { closing, .. }) = self.inodes.get_mut(&ino) {
            *closing = Closing::Refused;
        }
    }

    /// A handle of `ino` is closed. Returns the file that nobody reads any more, if it was the last
    /// and the kernel read one.
    pub(crate) fn closed(&mut self, ino: u64) -> Option<B> {
        let Entry::Occupied(mut mode) = self.inodes.entry(ino) else { return None };
        let handles = match mode.get_mut() {
            Mode::Choosing => return None,
            Mode::Cached { handles, .. } | Mode::Passthrough { handles, .. } => handles,
        };
        *handles -= 1;
        if *handles > 0 {
            return None;
        }
        match mode.remove() {
            Mode::Passthrough { backing, .. } => Some(backing),
            Mode::Choosing | Mode::Cached { .. } => None,
        }
    }

    /// Files that the kernel reads now.
    pub(crate) fn backings(&self) -> usize {
        self.inodes.values().filter(|mode| matches!(mode, Mode::Passthrough { .. })).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: u64 = 7;

    /// What happens to one inode, and what is to come of it.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Open(Told<u8>),
        Chosen(Option<u8>),
        Abandoned,
        Ready,
        WaitedEnough,
        Closed(Option<u8>),
    }
    use Step::{Abandoned, Chosen, Closed, Open, Ready, WaitedEnough};
    use Told::{Cached, Choose, Passthrough, Wait, WaitForClose};

    impl Copy for Told<u8> {}

    #[track_caller]
    fn check(steps: &[Step]) {
        let (mut modes, mut is_ready) = (Modes::default(), false);
        for (index, step) in steps.iter().enumerate() {
            match *step {
                Open(told) => assert_eq!(modes.open(INO, || is_ready), told, "step {index}"),
                Ready => is_ready = true,
                WaitedEnough => modes.waited_enough(INO),
                Chosen(backing) => modes.chosen(INO, backing),
                Abandoned => modes.abandoned(INO),
                Closed(given_back) => assert_eq!(modes.closed(INO), given_back, "step {index}"),
            }
        }
        assert!(modes.inodes.is_empty(), "{:?} is left", modes.inodes);
    }

    #[test]
    fn the_first_open_chooses_and_later_ones_follow_until_the_last_is_closed() {
        for backing in [None, Some(3)] {
            let told = backing.map_or(Cached, Passthrough);
            check(&[
                Open(Choose),
                Open(Wait),
                Chosen(backing),
                Open(told),
                Open(told),
                Closed(None),
                Open(told),
                Closed(None),
                Closed(None),
                Closed(backing),
            ]);
        }
    }

    #[test]
    fn the_mode_is_chosen_anew_once_no_handle_is_open() {
        check(&[
            Open(Choose),
            Chosen(None),
            Closed(None),
            Open(Choose),
            Chosen(Some(3)),
            Closed(Some(3)),
            Open(Choose),
            Chosen(Some(4)),
            Open(Passthrough(4)),
            Closed(None),
            Closed(Some(4)),
        ]);
    }

    #[test]
    fn opens_wait_once_for_old_handles_when_the_file_is_ready() {
        check(&[
            Open(Choose),
            Chosen(None),
            Open(Cached),
            Ready,
            Open(WaitForClose),
            Open(WaitForClose),
            Closed(None),
            Open(WaitForClose),
            Closed(None),
            Open(Choose),
            Chosen(Some(3)),
            Open(Passthrough(3)),
            Closed(None),
            Closed(Some(3)),
        ]);
        check(&[
            Open(Choose),
            Chosen(None),
            Ready,
            Open(WaitForClose),
            WaitedEnough,
            Open(Cached),
            Open(Cached),
            Closed(None),
            Closed(None),
            Closed(None),
        ]);
    }

    #[test]
    fn who_gives_up_choosing_leaves_it_to_the_next() {
        check(&[
            Open(Choose),
            Open(Wait),
            Abandoned,
            Open(Choose),
            Chosen(Some(3)),
            Abandoned,
            Open(Passthrough(3)),
            Closed(None),
            Closed(Some(3)),
        ]);
    }

    #[test]
    fn closing_what_was_never_opened_changes_nothing() {
        check(&[
            Closed(None),
            Open(Choose),
            Closed(None),
            Chosen(None),
            Closed(None),
            Closed(None),
        ]);
    }

    #[test]
    fn inodes_do_not_mix() {
        let mut modes = Modes::default();
        let is_ready = || false;
        assert_eq!(modes.open(1, is_ready), Choose);
        assert_eq!(modes.open(2, is_ready), Choose);
        modes.chosen(1, Some(10));
        modes.chosen(2, None);
        let told = (modes.open(1, is_ready), modes.open(2, is_ready));
        assert_eq!(told, (Passthrough(10), Cached));
        assert_eq!(modes.backings(), 1);
        assert_eq!((modes.closed(2), modes.closed(1), modes.closed(1)), (None, None, Some(10)));
        assert_eq!(modes.backings(), 0);
    }
}
