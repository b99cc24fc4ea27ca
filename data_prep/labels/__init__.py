"""Where labels come from: tables beside the reports, headings that coders gave, the words of a report.

    tables    CheXpert-style tables, by the names of their columns
    mesh      the MeSH headings of the Indiana collection
    rules     what a report mentions, denies and leaves open
    fill      labels for records that have none, by rules or by CheXbert

All end in the label dict of an ImageRecord: CheXbert names with 1 positive, 0 negative, -1 uncertain, None labelled
and not mentioned; a name that is absent is unknown.
"""
