package replication

import (
	"errors"
	"fmt"
)

// Verdict is what a [Finding] means for who wants to run.
type Verdict string

// The verdicts.
const (
	Passed    Verdict = "ok"
	Warning   Verdict = "warn" // it will run, and somebody should know
	Failed    Verdict = "fail" // it will not run, or not rightly
	Unchecked Verdict = "skip" // it hangs on something that failed
)

// A Finding is what was found out beforehand of one thing. Nothing was changed to find it.
type Finding struct {
	Verdict Verdict `json:"result"`
	Check   string  `json:"check"` // the thing, in a word or two
	Found   string  `json:"found"`
	Remedy  string  `json:"remedy,omitempty"` // of a warning or a failure
}

// Findings is a list that grows.
type Findings []Finding

// Pass notes that something is as it must be.
func (f *Findings) Pass(check, format string, args ...any) {
	*f = append(*f, Finding{Passed, check, fmt.Sprintf(format, args...), ""})
}

// Warn notes what somebody should know.
func (f *Findings) Warn(check, remedy, format string, args ...any) {
	*f = append(*f, Finding{Warning, check, fmt.Sprintf(format, args...), remedy})
}

// Fail notes what keeps it from running.
func (f *Findings) Fail(check, remedy, format string, args ...any) {
	*f = append(*f, Finding{Failed, check, fmt.Sprintf(format, args...), remedy})
}

// Skip notes what could not be looked at.
func (f *Findings) Skip(check, why string) {
	*f = append(*f, Finding{Unchecked, check, why, ""})
}

// Fault notes an error; a [*Problem] brings its remedy.
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
