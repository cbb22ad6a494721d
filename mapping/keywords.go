package mapping

import "strings"

// words makes a set of words that white space separates.
func words(text string) map[string]bool {
	all := map[string]bool{}
	for _, w := range strings.Fields(text) {
		all[w] = true
	}
	return all
}

var (
	// reserved are the keywords that cannot be the name of a column without quotes: RESERVED_KEYWORD and TYPE_FUNC_NAME_KEYWORD in
	// kwlist.h of the server's sources.
	reserved = words(`all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
		current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc distinct do else
		end except false fetch for foreign from grant group having in initially intersect into lateral leading limit localtime
		localtimestamp not null offset on only or order placing primary references returning select session_user some symmetric
		system_user table then to trailing true union unique user using variadic when where window with
		authorization binary collation concurrently cross current_schema freeze full ilike inner is isnull join left like natural notnull
		outer overlaps right similar tablesample verbose`)
	// ends are the reserved keywords that end an expression.
	ends = words(`end null true false current_catalog current_date current_role current_schema current_time current_timestamp
		current_user localtime localtimestamp session_user system_user user isnull notnull`)
	// openers are other keywords behind which an expression may begin.
	openers = words(`at zone between by escape operator over rows range groups set filter values value first last next row uescape
		passing name version standalone key content document path columns keys within matched preceding following nulls path ref ordinality exclude
		partition search breadth depth cycle recursive nothing conflict update delete insert source target period without
		xmlexists nested error empty absent conditional unconditional wrapper quotes setof interval`)
)
