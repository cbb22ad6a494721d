package ledger

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
)

// refusesData reports whether a server refuses a statement for the values in the statement: the classes cardinality, data, constraints,
// checks, limits and RAISE (the Postgres manual, appendix A). The same statement with other values may pass.
func refusesData(err error) bool {
	state := pgerror.SQLState(err)
	return len(state) == 5 && slices.Contains([]string{"21", "22", "23", "44", "54", "P0"}, state[:2])
}

// isUnwritable reports whether a SQLSTATE says that a database cannot have a text: of a character without a form in the encoding, or of bytes
// that are no characters.
func isUnwritable(state string) bool { return state == "22021" || state == "22P05" }

// fitted makes a text fit for a column of a note on the primary.
func fitted(conn *pgx.Conn, text string, place fit.Place) string {
	return fit.Encoded(fit.Text(text, place), conn.PgConn().ParameterStatus("server_encoding"))
}
