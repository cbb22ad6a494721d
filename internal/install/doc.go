// Package install prints or makes what the primary needs, for outflow init.
//
// The primary needs wal_level = logical, a role with exactly the rights that outflow run uses ([Grants]), the schema outflow, the publication and
// the slot. [Print] writes a script for psql and changes nothing. [Apply] runs the statements that are not done yet, each in a transaction of its
// own, because a slot cannot be made in a transaction that has written. Apply may therefore end in the middle, and is safe to run again.
package install
