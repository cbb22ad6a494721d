package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
	"outflow/replication/primary"
)

// publicationGone is the warning of servers from 18 on, where earlier ones fail.
type publicationGone struct{ message string }

func (e *publicationGone) Error() string { return e.message }

func isSlotInUse(err error) bool { return pgerror.SQLState(err) == pgerror.ObjectInUse }

// isFatal reports whether connecting again cannot help.
func isFatal(err error) bool {
	var problem *primary.Problem
	var gone *publicationGone
	if errors.As(err, &problem) || errors.As(err, &gone) {
		return true
	}
	switch pgerror.SQLState(err) {
	case pgerror.UndefinedObject, pgerror.NotInPrerequisite, pgerror.InsufficientRights, pgerror.Untranslatable:
		return true
	}
	return false
}

// explainFatal names the cause and the remedy of an error ending the stream for good. The text of a lost slot's error differs by version;
// the slot's row says why the server invalidated the slot.
func (r *Reader) explainFatal(ctx context.Context, err error) error {
	if pgerror.SQLState(err) == pgerror.NotInPrerequisite {
		if lost := r.Slot.Lost(ctx); lost != nil {
			return lost
		}
	}
	return explainStream(r.Slot.Name, r.Publication.Name, err)
}

// aboutPublication reports whether the server's report is about a missing publication. The routine tells (get_publication_oid in
// pg_publication.c and lsyscache.c, LoadPublications in pgoutput.c), since lc_messages may translate the message.
func aboutPublication(routine, message string) bool {
	return routine == "get_publication_oid" || routine == "LoadPublications" || strings.Contains(message, "publication")
}

// explainStream adds the remedy to an error ending the stream for good. The texts of a lost slot differ by version; the
// SQLSTATE does not.
func explainStream(slot, publication string, err error) error {
	var gone *publicationGone
	var told *pgconn.PgError
	switch state := pgerror.SQLState(err); {
	case errors.As(err, &gone), state == pgerror.UndefinedObject && errors.As(err, &told) && aboutPublication(told.Routine, told.Message):
		return &primary.Problem{What: fmt.Sprintf("publication %q is gone, or was gone for a time (dropped or renamed), and transactions of that time are not in the stream", publication),
			Remedy: "recreate the publication and the slot: " + primary.ResetCommand, Err: err, Relied: true}
	case state == pgerror.UndefinedObject:
		return primary.Slot{Name: slot}.Gone()
	case state == pgerror.NotInPrerequisite && strings.Contains(err.Error(), "wal_level"):
		return &primary.Problem{What: "wal_level on the primary is no longer logical",
			Remedy: "ALTER SYSTEM SET wal_level = logical, then restart the primary", Err: err}
	case state == pgerror.Untranslatable:
		return &primary.Problem{What: "a value on the primary has a character without a counterpart in UTF-8, and the stream ends there",
			Remedy: "correct the rows that have the character, and run: " + primary.ResetCommand, Err: pgerror.WithoutValues(err)}
	case state == pgerror.NotInPrerequisite:
		return &primary.Problem{What: fmt.Sprintf("replication slot %q can no longer be read", slot), Remedy: "run: " + primary.ResetCommand, Err: err}
	}
	return fmt.Errorf("replication slot %q: %w", slot, err)
}
