//! What taking and giving back a frame costs: the buddy allocator behind its lock, as the arena has
//! it, beside a lock-free queue of free frames between the same threads.
//!
//! `cargo run --release -p tenderfs-cache --example frames`; docs/decisions/0003-free-frames.md has
//! figures and what followed from them.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

#[allow(dead_code, reason = "the allocator as it is; only part of it is measured")]
#[path = "../src/memory/buddy.rs"]
mod buddy;

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use buddy::{Buddy, ORDER_MAX};
use crossbeam::queue::ArrayQueue;

/// Frames of an arena of 1 GiB.
const CHUNKS: u32 = 256;
const ROUNDS: u32 = 1_000_000;
const RUNS: usize = 5;

fn main() {
    for threads in [1, 2, 4] {
        let buddy = Mutex::new(Buddy::new(CHUNKS));
        let locked = median(threads, || {
            let taken = buddy.lock().unwrap_or_else(PoisonError::into_inner).allocate(ORDER_MAX);
            if let Some(extent) = black_box(taken) {
                buddy.lock().unwrap_or_else(PoisonError::into_inner).release(extent);
            }
        });
        let queue = ArrayQueue::new(CHUNKS as usize);
        for chunk in 0..CHUNKS {
            assert!(queue.push(chunk).is_ok(), "the queue has room for every frame");
        }
        let queued = median(threads, || {
            if let Some(chunk) = black_box(queue.pop()) {
                assert!(queue.push(chunk).is_ok(), "the queue has room for every frame");
            }
        });
        println!(
            "{threads} threads: buddy and lock {locked:.0} ns, queue {queued:.0} ns a frame taken and given back"
        );
    }
}

/// Median over the runs of the nanoseconds of one round, with every thread doing all rounds.
fn median(threads: u32, round: impl Fn() + Sync) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..ROUNDS).for_each(|_| round()));
                }
            });
            started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS) / f64::from(threads)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}
