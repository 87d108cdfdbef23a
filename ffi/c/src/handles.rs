//! Handles that can be checked: tables of objects, and the numbers that name them.
//!
//! ```text
//!   63       32 31         4 3    0
//!   generation  index       kind        never 0, so NULL is no handle; odd addresses, so pointers hardly look like one
//! ```
//!
//! A place in a table is used again, with the next generation: an old handle then finds a number that is not its own. The
//! object is counted, so that destroying it while another thread is inside a call is safe: the call ends as it would
//! have, and the object goes with its last user.

use crate::boundary::Outcome;
use crate::last_error::Failure;
use crate::names::roundel_result_t::ROUNDEL_ERROR_INVALID_HANDLE;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const KIND_BITS: u32 = 4;
const INDEX_BITS: u32 = 28;
/// The first chunk's places; each further one has twice as many as the one before.
const FIRST_CHUNK: usize = 64;
const CHUNKS: usize = INDEX_BITS as usize - FIRST_CHUNK.ilog2() as usize;

/// Objects of one kind. Places never move, so that looking one up takes no lock but the place's own.
pub struct Table<T> {
    kind: u64,
    /// As in "communicator".
    noun: &'static str,
    chunks: [OnceLock<Chunk<T>>; CHUNKS],
    vacant: Mutex<Vacant>,
}

type Chunk<T> = Box<[Mutex<Place<T>>]>;

struct Place<T> {
    generation: u32,
    object: Option<Arc<T>>,
}

/// Places to use next, the longest unused first.
struct Vacant {
    places: VecDeque<usize>,
    chunks_made: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Table<T> {
    /// An empty table; every kind has a number of its own, from 1 to 15.
    pub const fn new(kind: u64, noun: &'static str) -> Table<T> {
        assert!(0 < kind && kind < 1 << KIND_BITS);
        Table {
            kind,
            noun,
            chunks: [const { OnceLock::new() }; CHUNKS],
            vacant: Mutex::new(Vacant { places: VecDeque::new(), chunks_made: 0 }),
        }
    }

    /// Keeps the object and names it.
    pub fn insert(&self, object: T) -> Outcome<u64> {
        let index = self.vacate()?;
        let mut place = lock(self.place(index).expect("it was made"));
        place.object = Some(Arc::new(object));
        Ok(u64::from(place.generation) << (KIND_BITS + INDEX_BITS) | (index as u64) << KIND_BITS | self.kind)
    }

    /// The object that `handle` names.
    pub fn get(&self, handle: u64) -> Outcome<Arc<T>> {
        let (mutex, generation) = self.find(handle)?;
        let place = lock(mutex);
        match &place.object {
            Some(object) if place.generation == generation => Ok(object.clone()),
            _ => Err(self.gone(handle, place.generation, generation)),
        }
    }

    /// Takes the object out of the table: from now on the handle names nothing.
    pub fn remove(&self, handle: u64) -> Outcome<Arc<T>> {
        let (mutex, generation) = self.find(handle)?;
        let mut place = lock(mutex);
        if place.generation != generation || place.object.is_none() {
            return Err(self.gone(handle, place.generation, generation));
        }
        let object = place.object.take().expect("looked at above");
        // The last generation is never given out again, so no handle ever fits two objects.
        if let Some(next) = generation.checked_add(1) {
            place.generation = next;
            drop(place);
            lock(&self.vacant).places.push_back(Table::<T>::index(handle));
        }
        Ok(object)
    }

    fn index(handle: u64) -> usize {
        (handle >> KIND_BITS) as usize & ((1 << INDEX_BITS) - 1)
    }

    fn find(&self, handle: u64) -> Outcome<(&Mutex<Place<T>>, u32)> {
        if handle == 0 {
            return Err(Failure::new(ROUNDEL_ERROR_INVALID_HANDLE, format!("the {} is NULL", self.noun)));
        }
        let kind = handle & ((1 << KIND_BITS) - 1);
        let place = self.place(Table::<T>::index(handle)).filter(|_| kind == self.kind);
        let place = place.ok_or_else(|| self.never(handle))?;
        Ok((place, (handle >> (KIND_BITS + INDEX_BITS)) as u32))
    }

    fn never(&self, handle: u64) -> Failure {
        Failure::new(ROUNDEL_ERROR_INVALID_HANDLE, format!("{handle:#x} is not a {}", self.noun))
    }

    fn gone(&self, handle: u64, current: u32, asked: u32) -> Failure {
        if asked > current || (asked == current && asked == 0) {
            return self.never(handle);
        }
        Failure::new(ROUNDEL_ERROR_INVALID_HANDLE, format!("the {} {handle:#x} was destroyed before", self.noun))
    }

    fn place(&self, index: usize) -> Option<&Mutex<Place<T>>> {
        let chunk = ((index + FIRST_CHUNK) / FIRST_CHUNK).ilog2() as usize;
        self.chunks.get(chunk)?.get()?.get(index + FIRST_CHUNK - (FIRST_CHUNK << chunk))
    }

    /// An unused place; makes new ones when there is none.
    fn vacate(&self) -> Outcome<usize> {
        let mut vacant = lock(&self.vacant);
        if vacant.places.is_empty() {
            let chunk = vacant.chunks_made;
            let Some(room) = self.chunks.get(chunk) else {
                return Err(Failure::argument(format!("too many {}s at once; free some", self.noun)));
            };
            let len = FIRST_CHUNK << chunk;
            room.get_or_init(|| (0..len).map(|_| Mutex::new(Place { generation: 0, object: None })).collect());
            vacant.chunks_made += 1;
            vacant.places.extend((0..len).map(|at| len - FIRST_CHUNK + at));
        }
        Ok(vacant.places.pop_front().expect("filled above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn code(outcome: Outcome<Arc<usize>>) -> i32 {
        outcome.expect_err("no such handle").code as i32
    }

    #[test]
    fn every_object_is_found_under_its_own_handle_only() {
        let table = Table::new(1, "thing");
        let handles: Vec<u64> = (0..1000).map(|number| table.insert(number).unwrap()).collect();
        assert_eq!(handles.iter().collect::<HashSet<_>>().len(), 1000);
        for (number, &handle) in handles.iter().enumerate() {
            assert_eq!(*table.get(handle).unwrap(), number);
            for wrong in [handle ^ 2, handle ^ 1 << 40, handle + (1 << 36)] {
                assert_eq!(code(table.get(wrong)), ROUNDEL_ERROR_INVALID_HANDLE as i32);
            }
        }
        for (number, &handle) in handles.iter().enumerate() {
            assert_eq!(*table.remove(handle).unwrap(), number);
            assert_eq!(code(table.remove(handle)), ROUNDEL_ERROR_INVALID_HANDLE as i32);
        }
        // The same places again, under other names.
        let again: HashSet<u64> = (0..1000).map(|number| table.insert(number).unwrap()).collect();
        assert!(handles.iter().all(|handle| !again.contains(handle) && table.get(*handle).is_err()));
    }

    #[test]
    fn any_number_is_judged_without_panic() {
        let table = Table::new(15, "thing");
        table.insert(1usize).unwrap();
        for shift in 0..64 {
            for wrong in [1u64 << shift, u64::MAX << shift, u64::MAX >> shift, (1 << shift) - 1] {
                let found = table.get(wrong);
                assert!(found.is_err() || wrong == 15, "{wrong:#x}");
            }
        }
    }

    #[test]
    fn a_place_retires_with_its_last_generation() {
        let table = Table::new(1, "thing");
        let first = table.insert(1usize).unwrap();
        lock(table.place(0).unwrap()).generation = u32::MAX;
        let last = first | u64::from(u32::MAX) << 32;
        assert_eq!(*table.remove(last).unwrap(), 1);
        let later: Vec<u64> = (0..200).map(|number| table.insert(number).unwrap()).collect();
        assert!(later.iter().all(|&handle| Table::<usize>::index(handle) != 0));
        assert_eq!(code(table.get(last)), ROUNDEL_ERROR_INVALID_HANDLE as i32);
    }

    #[test]
    fn an_object_lives_as_long_as_its_last_user() {
        let table = Table::new(1, "thing");
        let handle = table.insert(7usize).unwrap();
        let user = table.get(handle).unwrap();
        drop(table.remove(handle).unwrap());
        assert_eq!(*user, 7);
        assert!(table.get(handle).is_err());
    }

    #[test]
    fn places_follow_one_another_through_the_chunks() {
        let table: Table<usize> = Table::new(1, "thing");
        for index in 0..FIRST_CHUNK * 15 {
            assert_eq!(Table::<usize>::index(table.insert(index).unwrap()), index);
        }
        assert!(table.place(FIRST_CHUNK * 15).is_none() && table.place((1 << INDEX_BITS) - 1).is_none());
    }
}
