//! Which of the kernel's queues a core serves.

/// Numbers of the queues that the core `index` of `cores` serves of `queues`: every `cores`-th, so
/// that a core which is bound to the processor of its number serves the callers on it.
pub(crate) fn of_core(index: usize, cores: usize, queues: usize) -> Vec<u16> {
    (index..queues).step_by(cores.max(1)).filter_map(|queue| u16::try_from(queue).ok()).collect()
}

/// How many processors may ever run in a list such as `0-3,8-11`, as
/// `/sys/devices/system/cpu/possible` has it; `None` if it is no such list.
pub(crate) fn possible(list: &str) -> Option<usize> {
    let mut count: usize = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_one_core() {
        for (cores, queues) in [(1, 1), (1, 8), (2, 2), (3, 8), (4, 2), (16, 128), (2, 0)] {
            let mut all: Vec<u16> =
                (0..cores).flat_map(|index| of_core(index, cores, queues)).collect();
            all.sort_unstable();
            let expected: Vec<u16> = (0..u16::try_from(queues).unwrap()).collect();
            assert_eq!(all, expected, "{cores} cores");
        }
        assert_eq!(of_core(1, 3, 8), [1, 4, 7]);
    }

    #[test]
    fn possible_processors_are_counted() {
        for (list, count) in [
            ("0-1\n", Some(2)),
            ("0", Some(1)),
            ("0-3,8-11", Some(8)),
            ("0,2,4-5", Some(4)),
            ("", None),
            ("3-1", None),
            ("0-x", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(possible(list), count, "{list}");
        }
    }
}
