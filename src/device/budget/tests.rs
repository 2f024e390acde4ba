use super::*;
use crate::device::number::number;
use crate::device::shelf::Shelf;
use crate::device::weight_cache::{Lease, Weights};
use crate::device::weight_key::Form;
use crate::graph::{Graph, Repack, WeightPart};
use crate::kernels::Precision;
use crate::weights::Checkpoint;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Bytes of a weight of these tests: 100 numbers.
const WEIGHT: u64 = 400;
/// Bytes of a program besides its weights.
const OWN: u64 = 100;

/// A checkpoint of the weights `0` to `9`.
fn weights() -> Weights {
    let name = format!("ancestral-budget-{}-{}.safetensors", std::process::id(), number());
    let path = std::env::temp_dir().join(name);
    let bytes = [0u8; WEIGHT as usize];
    let tensor = |i: usize| (i.to_string(), TensorView::new(Dtype::F32, vec![100], &bytes).unwrap());
    serialize_to_file((0..10).map(tensor), None, &path).unwrap();
    let weights = Weights::new(Checkpoint::open_file(&path).unwrap());
    std::fs::remove_file(path).unwrap();
    weights
}

/// A budget of so many bytes of a device of a test's own.
fn budget(test: &str, bytes: u64) -> Arc<Memory> {
    let memory = Memory::of(test, || Usual::Card(1 << 20));
    memory.set(Some(bytes));
    memory
}

/// What a program of these weights holds, and how many bytes of them were read for it.
fn program(memory: &Arc<Memory>, weights: &Weights, names: &[&str]) -> Result<(Lease, u64)> {
    let mut g = Graph::new();
    for name in names {
        g.vector(name, &[100]);
    }
    let form = |id| (Form::F32, g.info(id).bytes(Precision::F32));
    let mut lease = weights.lease(memory, &g, 0, OWN, form)?;
    for name in names {
        weights.cpu(&mut lease, (&[WeightPart::whole(*name)], Repack::None), None)?;
    }
    lease.settle();
    let read = lease.uploaded;
    Ok((lease, read))
}

/// Bytes that are read for a program which is dropped again.
fn read(memory: &Arc<Memory>, weights: &Weights, names: &[&str]) -> u64 {
    program(memory, weights, names).expect("there is room").1
}

#[test]
fn what_was_used_least_recently_goes() {
    let (memory, weights) = (budget("least recently", 3 * WEIGHT + OWN), weights());
    assert_eq!(read(&memory, &weights, &["0", "1", "2"]), 3 * WEIGHT);
    assert_eq!(memory.used(), 3 * WEIGHT);
    // Others of the owner's are used at the same time: it counts when a program ran.
    let other = super::tests::weights();
    assert_eq!(read(&memory, &weights, &["0"]), 0);
    assert_eq!(read(&memory, &other, &["0"]), WEIGHT);
    assert_eq!((memory.used(), memory.evicted()), (3 * WEIGHT, WEIGHT));
    // The one that no program read since the first went, whichever was made before the other.
    assert_eq!(read(&memory, &weights, &["0", "2"]), 0);
    assert_eq!(read(&memory, &other, &["0"]), 0);
    assert_eq!(read(&memory, &weights, &["1"]), WEIGHT);
    drop(other);
    drop(weights);
    assert_eq!((memory.used(), memory.weights()), (0, 0));
}

#[test]
fn what_is_in_use_stays() {
    let (memory, weights) = (budget("in use", 3 * WEIGHT + 2 * OWN), weights());
    let (held, _) = program(&memory, &weights, &["0", "1"]).unwrap();
    assert_eq!(read(&memory, &weights, &["2"]), WEIGHT);
    assert_eq!(read(&memory, &weights, &["3"]), WEIGHT);
    assert_eq!(read(&memory, &weights, &["0", "1"]), 0);
    // More than there is beside it.
    let Err(Error::Limit { what, needed, available }) = program(&memory, &weights, &["4", "5"]) else {
        panic!("it fits")
    };
    assert_eq!((needed, available), (2 * WEIGHT + OWN, WEIGHT + OWN));
    assert!(what.contains("memory budget") && what.contains("in use"), "{what}");
    drop(held);
    assert_eq!(read(&memory, &weights, &["4", "5"]), 2 * WEIGHT);
    // A program may outlive its weights.
    let held = program(&memory, &weights, &["4"]).unwrap();
    drop(weights);
    assert_eq!(memory.used(), WEIGHT + OWN);
    drop(held);
    assert_eq!(memory.used(), 0);
}

#[test]
fn idle_programs_go_with_their_weights() {
    let (memory, weights) = (budget("idle", 4 * WEIGHT + 2 * OWN), weights());
    let shelf = Shelf::default();
    shelf.put(&memory, program(&memory, &weights, &["0", "1"]).unwrap());
    assert_eq!(read(&memory, &weights, &["2", "3"]), 2 * WEIGHT);
    // Used again, so that what came after it is older.
    let idle = shelf.take(&memory, |_| true).expect("it is there");
    idle.0.touch();
    shelf.put(&memory, idle);
    let other = super::tests::weights();
    assert_eq!(read(&memory, &other, &["0"]), WEIGHT);
    assert!(memory.kept().idle.len() == 1, "it was used last");
    assert_eq!(read(&memory, &other, &["1", "2", "3"]), 3 * WEIGHT);
    assert!(shelf.take(&memory, |_| true).is_none());
    assert_eq!(memory.used(), 4 * WEIGHT);
    // One that does not fit goes.
    shelf.put(&memory, program(&memory, &other, &["0"]).unwrap());
    assert_eq!(memory.used(), 4 * WEIGHT + OWN);
    assert!(shelf.take(&memory, |_| false).is_none());
    assert_eq!(memory.used(), 4 * WEIGHT);
    shelf.put(&memory, program(&memory, &other, &["0"]).unwrap());
    drop((shelf, other, weights));
    assert_eq!(memory.used(), 0);
}

/// What is only guessed refuses nothing: everything idle goes, and the device decides.
#[test]
fn a_guess_refuses_nothing() {
    let memory = Memory::of("a guess", || Usual::Card(2 * WEIGHT / 7 * 8));
    let weights = weights();
    assert_eq!(memory.budget(), Budget { keeps: 2 * WEIGHT / 7 * 8 / 8 * 7, refuses: None });
    let names = ["0", "1", "2", "3"];
    assert_eq!(read(&memory, &weights, &names), 4 * WEIGHT);
    assert_eq!(memory.most(), 4 * WEIGHT + OWN);
    assert!(read(&memory, &super::tests::weights(), &["0"]) == WEIGHT && memory.used() <= 2 * WEIGHT);
}

#[test]
fn refused_allocations_are_tried_again_once() {
    let (memory, weights) = (budget("refused", 1 << 20), weights());
    read(&memory, &weights, &["0", "1"]);
    let tries = AtomicU64::new(0);
    let make = || {
        tries.fetch_add(1, Relaxed);
        let full = memory.is_full();
        if full { Err(Refusal::Memory { what: "`w`".into(), bytes: 7 }) } else { Ok(()) }
    };
    memory.holds(Some(WEIGHT));
    assert!(memory.with_room(|| Ok(()), make).is_ok());
    assert_eq!((memory.used(), tries.swap(0, Relaxed)), (0, 2));
    let held = program(&memory, &weights, &["0", "1"]).unwrap();
    let Err(Error::Limit { what, needed: 7, .. }) = memory.with_room(|| Ok(()), make) else { panic!("made") };
    assert!(what.contains("no memory for `w`") && what.contains("budget of 1.0 MB"), "{what}");
    assert_eq!(tries.into_inner(), 2);
    drop(held);
}

#[test]
fn more_than_the_machine_has_is_refused() {
    let memory = Memory::new("machine", Usual::Machine);
    assert!(memory.charge(0).is_ok());
    if cfg!(target_os = "linux") {
        for given in [None, Some(1 << 61)] {
            memory.set(given);
            let message = memory.charge(1 << 60).err().expect("too much").to_string();
            assert!(message.contains("needs 1152921504.6 GB"), "{message}");
        }
        assert_eq!(memory.used(), 0);
    }
}
