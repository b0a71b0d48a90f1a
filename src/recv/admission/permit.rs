//! Admission control shared by all threads of a receiver, and the permit of each connection.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::table::AdmissionControl;
use crate::recv::handle::ConnectionHandle;

use crate::sync::{lock, wait, wait_timeout};

/// See the module documentation.
#[derive(Debug)]
pub struct SharedAdmission {
    control: Mutex<AdmissionControl>,
    changed: Condvar,
}

impl SharedAdmission {
    pub fn new(admission: AdmissionControl) -> Self {
        SharedAdmission { control: Mutex::new(admission), changed: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, AdmissionControl> {
        lock(&self.control)
    }

    /// Changes the state, and wakes the thread that enforces deadlines if there is a nearer one.
    pub fn update<T>(&self, change: impl FnOnce(&mut AdmissionControl) -> T) -> T {
        let mut admission = self.lock();
        let changed = change(&mut admission);
        self.notify_of_deadline(&mut admission);
        changed
    }

    fn notify_of_deadline(&self, admission: &mut AdmissionControl) {
        if std::mem::take(&mut admission.has_new_deadline) {
            self.notify();
        }
    }

    /// Wakes all threads that wait for a change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for [`SharedAdmission::notify`], or until the time is up.
    pub fn wait<'a>(
        &self,
        mut admission: MutexGuard<'a, AdmissionControl>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, AdmissionControl> {
        self.notify_of_deadline(&mut admission);
        match limit {
            Some(limit) => wait_timeout(&self.changed, admission, limit),
            None => wait(&self.changed, admission),
        }
    }
}

/// The entry of one connection in the table. It is removed when this is dropped.
#[derive(Debug)]
pub struct Permit {
    pub admission: Arc<SharedAdmission>,
    pub handle: ConnectionHandle,
    /// Of the connection.
    pub number: u64,
}

impl Permit {
    /// Adds a connection to the table.
    pub fn new(admission: &Arc<SharedAdmission>, handle: ConnectionHandle) -> Self {
        let number = admission.lock().register(handle.clone(), Instant::now());
        Permit { admission: Arc::clone(admission), handle, number }
    }

    /// The connection joins the session of another one.
    pub fn join(&self) {
        self.admission.lock().join(self.number);
    }

    /// Reserves slots for further connections of the session; `false` if there are too few.
    pub fn reserve_streams(&self, further: usize) -> bool {
        self.admission.lock().reserve_streams(self.number, further)
    }

    /// See [`AdmissionControl::enforce_entry_limit`].
    pub fn enforce_entry_limit(&self) {
        self.admission.update(|now| now.enforce_entry_limit(Instant::now()));
    }

    /// See [`AdmissionControl::release_descriptors`].
    pub fn release_descriptors(&self) {
        self.admission.update(|now| now.release_descriptors(Instant::now()));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.lock().remove(self.number);
        self.admission.notify();
    }
}
