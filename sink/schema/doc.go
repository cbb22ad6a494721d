// Package schema knows the source tables as the stream and the primary's catalog have described the tables last, and widens rows that an earlier
// description made. A description of the stream is of the time of a change, so columns are only added ([Schemas]) until the catalog says that a
// column is gone. One lock guards all; the lock is not held while the primary answers.
package schema
