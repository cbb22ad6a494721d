package primary

import (
	"errors"
	"fmt"
)

// Verdict is the meaning of a [Finding] for an operator about to run.
type Verdict string

// The verdicts.
const (
	Passed    Verdict = "ok"
	Warning   Verdict = "warn" // the pipeline will run, and the operator should know
	Failed    Verdict = "fail" // the pipeline will not run, or not rightly
	Unchecked Verdict = "skip" // depends on a failed check
)

// A Finding is the result of one check before the run. The check changed nothing.
type Finding struct {
	Verdict Verdict `json:"result"`
	Check   string  `json:"check"` // the thing, in a word or two
	Found   string  `json:"found"`
	Remedy  string  `json:"remedy,omitempty"` // of a warning or a failure
}

// Findings is a growing list.
type Findings []Finding

// Pass notes a check in order.
func (f *Findings) Pass(check, format string, args ...any) {
	*f = append(*f, Finding{Passed, check, fmt.Sprintf(format, args...), ""})
}

// Warn notes something the operator should know.
func (f *Findings) Warn(check, remedy, format string, args ...any) {
	*f = append(*f, Finding{Warning, check, fmt.Sprintf(format, args...), remedy})
}

// Fail notes a fault which keeps the pipeline from running.
func (f *Findings) Fail(check, remedy, format string, args ...any) {
	*f = append(*f, Finding{Failed, check, fmt.Sprintf(format, args...), remedy})
}

// Skip notes a check which was not possible.
func (f *Findings) Skip(check, why string) {
	*f = append(*f, Finding{Unchecked, check, why, ""})
}

// Fault notes an error; a [*Problem] brings a remedy.
func (f *Findings) Fault(check string, err error) {
	if problem := (*Problem)(nil); errors.As(err, &problem) {
		what := problem.What
		if problem.Err != nil {
			what += ": " + problem.Err.Error()
		}
		f.Fail(check, problem.Remedy, "%s", what)
		return
	}
	f.Fail(check, "", "%v", err)
}

// Failed reports whether anything failed.
func (f Findings) Failed() bool {
	for _, one := range f {
		if one.Verdict == Failed {
			return true
		}
	}
	return false
}
